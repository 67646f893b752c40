//! `[live]`: figures of what comes in, as it comes.
//!
//! In the file alone. Every key may be missing.

use std::collections::BTreeSet;

use serde::Deserialize;
use tracklog_pipeline::realtime::{LiveOptions, Measure, SumPath};

use super::threshold::ThresholdSettings;

/// More names than these are not told apart: they are sent to each client, each second.
const NAMES_MAX: usize = 10_000;
/// Each is looked for in every event.
const SUMS_MAX: usize = 16;

/// `[live]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LiveSettings {
    /// Whether there are live figures.
    pub enabled: bool,
    /// How many names are told apart.
    pub names_max: usize,
    /// How many may watch at once.
    pub clients_max: usize,
    /// Numbers that are summed: `properties.total`.
    pub sums: Vec<SumPath>,
    /// Who is told when a figure is too high or too low.
    pub thresholds: Vec<ThresholdSettings>,
}

impl Default for LiveSettings {
    fn default() -> Self {
        let usual = ["revenue", "total", "price", "quantity"];
        let path = |name| format!("properties.{name}").parse().expect("it names a property");
        let sums = usual.into_iter().map(path).collect();
        Self { enabled: true, names_max: 500, clients_max: 32, sums, thresholds: Vec::new() }
    }
}

impl LiveSettings {
    /// What is wrong with them.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.names_max > NAMES_MAX {
            return Err(format!("names_max is at most {NAMES_MAX}"));
        }
        if self.options().sums.len() > SUMS_MAX {
            return Err(format!("sums, those of thresholds included, are at most {SUMS_MAX}"));
        }
        if !self.enabled && !self.thresholds.is_empty() {
            return Err("thresholds need enabled = true".to_owned());
        }
        let mut names = BTreeSet::new();
        let all = self.thresholds.iter().map(|it| &it.threshold.name);
        match all.into_iter().find(|name| !names.insert(*name)) {
            Some(twice) => Err(format!("there are two thresholds called {twice:?}")),
            None => Ok(()),
        }
    }

    /// What is counted, for those who watch and for thresholds.
    #[must_use]
    pub fn options(&self) -> LiveOptions {
        let thresholds = self.thresholds.iter().map(|it| &it.threshold);
        let reserved = thresholds.clone().filter_map(|threshold| threshold.event.clone()).collect();
        let mut sums = self.sums.clone();
        for threshold in thresholds {
            if let Measure::Sum(path) = &threshold.of
                && !sums.contains(path)
            {
                sums.push(path.clone());
            }
        }
        LiveOptions { names_max: self.names_max, reserved, sums }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "url = \"http://127.0.0.1/\"";

    fn read(text: &str) -> LiveSettings {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn what_thresholds_look_at_is_counted() {
        let live = read(&format!(
            "sums = [\"properties.total\"]\n[[thresholds]]\nname = \"a\"\nevent = \"Paid\"\n\
             of = \"sum\"\nproperty = \"properties.tax\"\nwindow = \"1m\"\nabove = 1\n{URL}\n"
        ));
        live.check().unwrap();
        let options = live.options();
        assert_eq!(options.reserved, ["Paid"]);
        let sums: Vec<_> = options.sums.iter().map(SumPath::as_str).collect();
        assert_eq!(sums, ["properties.total", "properties.tax"]);
    }

    #[test]
    fn too_much_and_thresholds_of_one_name_are_refused() {
        let one = format!("[[thresholds]]\nname = \"a\"\nwindow = \"1s\"\nabove = 1\n{URL}\n");
        assert!(read(&format!("{one}{one}")).check().unwrap_err().contains("two thresholds"));
        assert!(read(&format!("enabled = false\n{one}")).check().is_err());
        assert!(read("names_max = 1000000").check().is_err());
        let many = (0..20).map(|n| format!("\"properties.p{n}\"")).collect::<Vec<_>>().join(",");
        assert!(read(&format!("sums = [{many}]")).check().is_err());
        read("").check().unwrap();
    }
}
