//! Which path is which.
//!
//! Paths are served with and without a slash at their end, and with doubled slashes at their
//! start: a redirect would lose events.

use http::Method;

/// Every group of paths, by the name that metrics use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum RouteName {
    Single,
    Batch,
    Import,
    Events,
    Beacon,
    Pixel,
    SdkMetrics,
    Settings,
    SourceConfig,
    Schemas,
    Health,
    Ready,
    Home,
    Door,
    Unknown,
}

impl RouteName {
    pub(crate) const ALL: [Self; 15] = [
        Self::Single,
        Self::Batch,
        Self::Import,
        Self::Events,
        Self::Beacon,
        Self::Pixel,
        Self::SdkMetrics,
        Self::Settings,
        Self::SourceConfig,
        Self::Schemas,
        Self::Health,
        Self::Ready,
        Self::Home,
        Self::Door,
        Self::Unknown,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Batch => "batch",
            Self::Import => "import",
            Self::Events => "events",
            Self::Beacon => "beacon",
            Self::Pixel => "pixel",
            Self::SdkMetrics => "sdk_metrics",
            Self::Settings => "settings",
            Self::SourceConfig => "source_config",
            Self::Schemas => "schemas",
            Self::Health => "health",
            Self::Ready => "ready",
            Self::Home => "home",
            Self::Door => "door",
            Self::Unknown => "unknown",
        }
    }
}

/// Which of the calls a single-event path is for: the kind of an event that names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Track,
    Identify,
    Page,
    Screen,
    Group,
    Alias,
    /// RudderStack's; none of our kinds.
    Merge,
}

/// A path that was understood. Borrows what it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    Single(Call),
    Batch,
    Import,
    Events,
    Beacon,
    Pixel(Call),
    SdkMetrics,
    /// Of the write key, percent-encoded.
    Settings(&'a str),
    SourceConfig,
    /// What follows `/v1/schemas`, without slashes around it.
    Schemas(&'a str),
    Health,
    Ready,
    Home,
    Other,
}

impl<'a> Route<'a> {
    pub(crate) fn of(path: &'a str) -> Self {
        let path = path.trim_start_matches('/').trim_end_matches('/');
        if let Some(rest) = path.strip_prefix("v1/") {
            return Self::of_v1(rest);
        }
        match path {
            "" => Self::Home,
            "livez" | "health" => Self::Health,
            "readyz" => Self::Ready,
            "sourceConfig" => Self::SourceConfig,
            "beacon/v1/batch" => Self::Beacon,
            "pixel/v1/track" => Self::Pixel(Call::Track),
            "pixel/v1/page" => Self::Pixel(Call::Page),
            _ => Self::Other,
        }
    }

    fn of_v1(path: &'a str) -> Self {
        match path {
            "batch" | "b" => Self::Batch,
            "import" => Self::Import,
            "events" => Self::Events,
            "track" | "t" => Self::Single(Call::Track),
            "identify" | "i" => Self::Single(Call::Identify),
            "page" | "p" => Self::Single(Call::Page),
            "screen" | "s" => Self::Single(Call::Screen),
            "group" | "g" => Self::Single(Call::Group),
            "alias" | "a" => Self::Single(Call::Alias),
            "merge" => Self::Single(Call::Merge),
            "m" => Self::SdkMetrics,
            "schemas" => Self::Schemas(""),
            _ => Self::of_v1_with_names(path),
        }
    }

    fn of_v1_with_names(path: &'a str) -> Self {
        if let Some(rest) = path.strip_prefix("schemas/") {
            return Self::Schemas(rest);
        }
        let key = path.strip_prefix("projects/").and_then(|rest| rest.strip_suffix("/settings"));
        match key {
            Some(key) if !key.is_empty() && !key.contains('/') => Self::Settings(key),
            _ => Self::Other,
        }
    }

    pub(crate) const fn name(&self) -> RouteName {
        match self {
            Self::Single(_) => RouteName::Single,
            Self::Batch => RouteName::Batch,
            Self::Import => RouteName::Import,
            Self::Events => RouteName::Events,
            Self::Beacon => RouteName::Beacon,
            Self::Pixel(_) => RouteName::Pixel,
            Self::SdkMetrics => RouteName::SdkMetrics,
            Self::Settings(_) => RouteName::Settings,
            Self::SourceConfig => RouteName::SourceConfig,
            Self::Schemas(_) => RouteName::Schemas,
            Self::Health => RouteName::Health,
            Self::Ready => RouteName::Ready,
            Self::Home => RouteName::Home,
            Self::Other => RouteName::Unknown,
        }
    }

    /// Whether pages of other origins use it: it gets CORS headers, on errors too.
    pub(crate) const fn is_for_pages(&self) -> bool {
        matches!(
            self,
            Self::Single(_)
                | Self::Batch
                | Self::Import
                | Self::Events
                | Self::Beacon
                | Self::Pixel(_)
                | Self::SdkMetrics
                | Self::Settings(_)
                | Self::SourceConfig
        )
    }

    /// The methods that it takes, where that is for the gateway to say.
    pub(crate) const fn methods(&self) -> Option<&'static str> {
        match self {
            Self::Single(_)
            | Self::Batch
            | Self::Import
            | Self::Events
            | Self::Beacon
            | Self::SdkMetrics => Some("POST, OPTIONS"),
            Self::Pixel(_) | Self::Settings(_) | Self::SourceConfig => Some("GET, OPTIONS"),
            Self::Health | Self::Ready | Self::Home => Some("GET"),
            Self::Schemas(_) | Self::Other => None,
        }
    }

    /// Whether `method` is one of [`methods`](Self::methods). HEAD goes with GET, but where a GET
    /// is an event: whoever only looks whether a link is good has opened no mail.
    pub(crate) fn takes(&self, method: &Method) -> bool {
        let looks = method == Method::HEAD && !matches!(self, Self::Pixel(_));
        let asked = if looks { "GET" } else { method.as_str() };
        self.methods().is_none_or(|methods| methods.split(", ").any(|taken| taken == asked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_around_a_path_change_nothing() {
        for path in ["/v1/batch", "/v1/batch/", "//v1/batch", "/v1/b", "///v1/b//"] {
            assert_eq!(Route::of(path), Route::Batch, "{path}");
        }
        assert_eq!(Route::of("/"), Route::Home);
        assert_eq!(Route::of("//"), Route::Home);
        assert_eq!(Route::of("/v1//batch"), Route::Other);
        assert_eq!(Route::of("/V1/batch"), Route::Other);
    }

    #[test]
    fn names_in_paths_are_handed_on_as_sent() {
        assert_eq!(Route::of("/v1/projects/k%2F1/settings"), Route::Settings("k%2F1"));
        assert_eq!(Route::of("/v1/projects//settings"), Route::Other);
        assert_eq!(Route::of("/v1/projects/a/b/settings"), Route::Other);
        assert_eq!(Route::of("/v1/schemas/"), Route::Schemas(""));
        assert_eq!(Route::of("/v1/schemas/a%20b/versions/2"), Route::Schemas("a%20b/versions/2"));
    }

    #[test]
    fn methods_are_matched_and_head_goes_with_get() {
        assert!(Route::Batch.takes(&Method::POST) && !Route::Batch.takes(&Method::GET));
        assert!(Route::Home.takes(&Method::HEAD) && !Route::Home.takes(&Method::POST));
        let pixel = Route::Pixel(Call::Track);
        assert!(pixel.takes(&Method::GET) && !pixel.takes(&Method::HEAD));
        assert!(Route::Other.takes(&Method::DELETE));
    }

    #[test]
    fn route_names_stand_at_their_own_numbers() {
        for (at, name) in RouteName::ALL.iter().enumerate() {
            assert_eq!(*name as usize, at);
        }
    }
}
