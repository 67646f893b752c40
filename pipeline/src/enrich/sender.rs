//! Who sent an event: its user's own device, or a server that speaks of its user.
//!
//! - `channel` decides where it says `server`, `web`, `browser` or `mobile`.
//! - Else the library does: it is one for servers, or it is not.
//! - Else, without channel and library, the agent: a program's is a server's.

use tracklog_protocol::event::EventView;

use super::device::is_program;

/// What libraries for servers are named after, at their end: `analytics-node`, `rudder-sdk-java`.
/// Those for browsers and phones end in `js`, `android`, `ios`, `native` and the like.
const SERVER_LANGUAGES: &[&str] =
    &["node", "python", "ruby", "java", "go", "php", "rust", "net", "dotnet", "csharp", "server"];

/// Whether a server sent `event`, by the rule above.
pub(super) fn is_server(event: &EventView<'_>) -> bool {
    says_server(event).unwrap_or_else(|| event.user_agent().is_some_and(is_program))
}

/// Whether `event` says that a server sent it: by its channel, else by its library.
pub(super) fn says_server(event: &EventView<'_>) -> Option<bool> {
    let channel = event.channel().unwrap_or_default();
    let is = |name: &&str| channel.eq_ignore_ascii_case(name);
    if is(&"server") {
        return Some(true);
    }
    if ["web", "browser", "mobile"].iter().any(is) {
        return Some(false);
    }
    event.library_name().map(is_server_library)
}

fn is_server_library(name: &str) -> bool {
    let language = name.rsplit(['-', '.', '/', ' ']).next().unwrap_or_default();
    SERVER_LANGUAGES.iter().any(|it| it.eq_ignore_ascii_case(language))
}

#[cfg(test)]
mod tests {
    use tracklog_protocol::event::{EventBuilder, EventParts};

    use super::*;

    fn server(channel: Option<&str>, library_name: Option<&str>, user_agent: Option<&str>) -> bool {
        let parts = EventParts { channel, library_name, user_agent, ..EventParts::default() };
        is_server(&EventView::of(EventBuilder::new().build(&parts)).unwrap())
    }

    #[test]
    fn the_channel_goes_before_the_library_and_that_before_the_agent() {
        assert!(server(Some("Server"), Some("analytics.js"), Some("Mozilla/5.0")));
        assert!(!server(Some("web"), Some("analytics-node"), Some("curl/8")));
        assert!(server(None, Some("@segment/analytics-node"), Some("Mozilla/5.0")));
        assert!(server(Some("batch"), Some("analytics-python"), None));
        assert!(!server(None, Some("analytics.js"), Some("curl/8")));
        assert!(server(None, None, Some("curl/8.5.0")));
        assert!(!server(None, None, Some("Mozilla/5.0 (X11; Linux)")));
        assert!(!server(None, None, None));
    }

    #[test]
    fn a_library_for_browsers_is_none_for_servers() {
        assert!(server(None, Some("rudder-sdk-java"), None));
        assert!(!server(None, Some("rudder-sdk-javascript"), None));
        assert!(server(None, Some("Analytics.NET"), None));
        assert!(server(None, Some("posthog-go"), None));
        for name in ["analytics.js", "analytics-android", "RudderLabs JavaScript SDK", "web", ""] {
            assert!(!server(None, Some(name), None), "{name}");
        }
    }
}
