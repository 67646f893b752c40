//! `[[live.thresholds]]`: who is told when a figure is too high or too low.

use std::path::PathBuf;

use serde::Deserialize;
use tracklog_pipeline::outbound::{Target, WebhookKey};
use tracklog_pipeline::quantity::Span;
use tracklog_pipeline::realtime::{Alert, Limit, Measure, SumPath, Threshold, WindowSpan};

use super::{ConfigError, read_key_file};

/// One of them. Read whole, or refused with its line.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Written")]
pub struct ThresholdSettings {
    /// What is looked at.
    pub threshold: Threshold,
    /// Who is called.
    pub target: Target,
    secret: Option<String>,
    secret_file: Option<PathBuf>,
}

/// As it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    event: Option<String>,
    #[serde(default)]
    of: Of,
    property: Option<SumPath>,
    window: WindowSpan,
    above: Option<f64>,
    below: Option<f64>,
    back: Option<f64>,
    #[serde(rename = "for")]
    hold: Option<Span>,
    url: String,
    secret: Option<String>,
    secret_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Of {
    #[default]
    Count,
    Rate,
    Sum,
}

impl TryFrom<Written> for ThresholdSettings {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let name = written.name.clone();
        settings(written).map_err(|what| format!("threshold {name:?}: {what}"))
    }
}

fn settings(written: Written) -> Result<ThresholdSettings, String> {
    let Written { name, event, of, property, window, .. } = written;
    if name.is_empty() {
        return Err("it has no name".to_owned());
    }
    let of = match (of, property) {
        (Of::Count, None) => Measure::Count,
        (Of::Rate, None) => Measure::Rate,
        (Of::Sum, Some(path)) => Measure::Sum(path),
        (Of::Sum, None) => return Err("of = \"sum\" needs a property".to_owned()),
        (_, Some(_)) => return Err("property belongs to of = \"sum\"".to_owned()),
    };
    let limit = limit(written.above, written.below, written.back)?;
    let target = written.url.parse::<Target>().map_err(|error| error.to_string())?;
    let (secret, secret_file) = (written.secret, written.secret_file);
    if secret.is_some() && secret_file.is_some() {
        return Err("secret and secret_file exclude each other".to_owned());
    }
    if let Some(secret) = &secret {
        WebhookKey::new(secret).map_err(|error| error.to_string())?;
    }
    let hold = written.hold.map(|span| span.0).unwrap_or_default();
    let threshold = Threshold { name, event, of, window, limit, hold };
    Ok(ThresholdSettings { threshold, target, secret, secret_file })
}

/// The way back is the limit itself, where nothing else is said.
fn limit(above: Option<f64>, below: Option<f64>, back: Option<f64>) -> Result<Limit, String> {
    let all = [above, below, back];
    if all.into_iter().flatten().any(|number| !number.is_finite()) {
        return Err("a limit is a number".to_owned());
    }
    match (above, below) {
        (Some(limit), None) => match back.unwrap_or(limit) {
            back if back <= limit => Ok(Limit::Above { limit, back }),
            _ => Err("back is not above the limit".to_owned()),
        },
        (None, Some(limit)) => match back.unwrap_or(limit) {
            back if back >= limit => Ok(Limit::Below { limit, back }),
            _ => Err("back is not below the limit".to_owned()),
        },
        _ => Err("it has either above or below".to_owned()),
    }
}

impl ThresholdSettings {
    /// It with its key, read from its file where it lies in one.
    ///
    /// # Errors
    /// [`ConfigError`] when there is no key in that file.
    pub fn alert(&self) -> Result<Alert, ConfigError> {
        let key = match (&self.secret, &self.secret_file) {
            (None, None) => None,
            (Some(secret), _) => Some((secret.clone(), "secret".to_owned())),
            (None, Some(file)) => Some((read_key_file(file)?, file.display().to_string())),
        };
        let read = |(secret, place): (String, String)| {
            WebhookKey::new(&secret).map_err(|error| ConfigError::new(place, error))
        };
        let (threshold, target) = (self.threshold.clone(), self.target.clone());
        Ok(Alert { threshold, target, key: key.map(read).transpose()? })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn read(text: &str) -> Result<ThresholdSettings, String> {
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }

    const GOOD: &str = "name = \"few\"\nwindow = \"1m\"\nurl = \"https://hooks.example/x\"\n";

    #[test]
    fn what_is_said_is_read_and_what_is_not_is_the_usual() {
        let few = read(&format!("{GOOD}below = 5")).unwrap();
        assert_eq!(
            few.threshold,
            Threshold {
                name: "few".to_owned(),
                event: None,
                of: Measure::Count,
                window: WindowSpan::Minute,
                limit: Limit::Below { limit: 5.0, back: 5.0 },
                hold: Duration::ZERO,
            }
        );
        assert!(few.alert().unwrap().key.is_none());
        let sum = read(&format!(
            "{GOOD}event = \"Paid\"\nof = \"sum\"\nproperty = \"properties.total\"\nabove = 9.5\n\
             back = 3\nfor = \"3m\"\nsecret = \"0123456789abcdef\""
        ));
        let sum = sum.unwrap();
        assert_eq!(sum.threshold.of, Measure::Sum("properties.total".parse().unwrap()));
        assert_eq!(sum.threshold.limit, Limit::Above { limit: 9.5, back: 3.0 });
        assert_eq!(sum.threshold.hold, Duration::from_secs(180));
        assert!(sum.alert().unwrap().key.is_some());
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        for (more, why) in [
            ("", "either above or below"),
            ("above = 1\nbelow = 2", "either above or below"),
            ("above = 1\nback = 2", "back is not above"),
            ("below = 2\nback = 1", "back is not below"),
            ("above = nan", "a limit is a number"),
            ("above = 1\nof = \"sum\"", "needs a property"),
            ("above = 1\nproperty = \"properties.x\"", "belongs to"),
            ("above = 1\nsecret = \"short\"", "at least 16"),
            ("above = 1\nsecret = \"0123456789abcdef\"\nsecret_file = \"f\"", "exclude each other"),
        ] {
            let error = read(&format!("{GOOD}{more}")).unwrap_err();
            assert!(error.contains("\"few\"") && error.contains(why), "{more}: {error}");
        }
        for more in ["window = \"5m\"", "above = 1\nunknown = 1", "above = 1\nof = \"most\""] {
            assert!(read(&format!("{GOOD}{more}")).is_err(), "{more}");
        }
        let no_url = GOOD.replace("https://", "ftp://");
        assert!(read(&format!("{no_url}above = 1")).unwrap_err().contains("no URL"));
    }
}
