//! The gateway's sources, from the settings.

use tracklog_ingest_gateway::Source;
use tracklog_ingest_gateway::source::{HmacKey, IpRule, SourceRules, UnknownEvents, UserIdRule};

use super::StartError;
use crate::config::{
    ConfigError, IpSetting, Settings, SourceSettings, UnknownEventsSetting, UserIdSetting,
    read_key_file,
};
use crate::folder::{DataFolder, FolderError};

/// All sources. `default_key` is the key of the source `default` where the settings name none.
pub(super) fn sources(
    settings: &Settings,
    folder: &DataFolder,
    default_key: &str,
) -> Result<Vec<Source>, StartError> {
    let one = |(name, source): (&String, &SourceSettings)| -> Result<Source, StartError> {
        let key = match (&source.write_key, &source.write_key_file) {
            (Some(key), _) => key.clone(),
            (None, Some(file)) => read_key_file(file)?,
            (None, None) => default_key.to_owned(),
        };
        let privacy_key = || folder.privacy_key().map(|secret| secret.text);
        build(name, source, key, privacy_key)
    };
    settings.sources.iter().map(one).collect()
}

/// One source. `privacy_key` is asked where user ids are hashed.
pub(crate) fn build(
    name: &str,
    source: &SourceSettings,
    key: String,
    privacy_key: impl FnOnce() -> Result<String, FolderError>,
) -> Result<Source, StartError> {
    let require = source.required().map_err(|error| ConfigError {
        place: format!("[sources.{name}]"),
        what: error.to_string(),
    })?;
    let rules = SourceRules {
        name: name.to_owned(),
        unknown_events: match source.unknown_events {
            UnknownEventsSetting::Accept => UnknownEvents::Accept,
            UnknownEventsSetting::Reject => UnknownEvents::Reject,
        },
        user_id: match source.user_id {
            UserIdSetting::Plain => UserIdRule::Plain,
            UserIdSetting::Hmac => UserIdRule::Hmac(HmacKey::new(privacy_key()?.as_bytes())),
        },
        ip: match source.ip {
            IpSetting::Keep => IpRule::Keep,
            IpSetting::Truncate => IpRule::Truncate,
            IpSetting::Drop => IpRule::Drop,
        },
        require,
        keep_rejected_bytes: source.keep_rejected_bytes,
        limits: source.scan_limits(),
    };
    let usual = Source::new(key, rules);
    Ok(Source {
        origins: source.origins.clone(),
        body_bytes_max: source.body_bytes_max(),
        decoded_bytes_max: source.decoded_bytes_max(),
        headers: source.headers.clone().unwrap_or_else(|| usual.headers.clone()),
        ..usual
    })
}

#[cfg(test)]
mod tests {
    use tracklog_pipeline::enrich::geo::Edge;

    use super::*;

    fn kept(ip: IpRule) -> Vec<String> {
        Source::new("key", SourceRules { ip, ..SourceRules::named("shop") }).proxy_headers
    }

    #[test]
    fn what_geo_reads_of_a_trusted_proxy_is_kept() {
        let kept = kept(IpRule::Keep);
        for edge in Edge::ALL {
            for name in edge.headers() {
                assert!(kept.iter().any(|it| it == name), "{name}");
            }
        }
        let read = |name: &String| Edge::ALL.iter().any(|edge| edge.headers().any(|it| it == name));
        assert_eq!(kept.iter().find(|name| !read(name)), None, "and nothing besides");
    }

    #[test]
    fn where_the_address_is_not_kept_no_header_tells_more_than_the_city() {
        for ip in [IpRule::Truncate, IpRule::Drop] {
            let kept = kept(ip);
            assert!(kept.iter().any(|name| name == "cf-ipcity"));
            let is_close = |name: &&String| name.contains("postal") || name.contains("itude");
            assert_eq!(kept.iter().find(is_close), None);
        }
    }
}
