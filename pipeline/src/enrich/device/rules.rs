//! From what a browser says to a device: the published rules, and ours on top of them.

use std::sync::LazyLock;

use ua_parser::{Extractor, Regexes};
use xxhash_rust::xxh3::xxh3_64;

use super::hints::Hinted;
use super::said::Said;
use super::{DeviceSeen, VALUE_BYTES_MAX, class};
use crate::enrich::text::cut;

const PUBLISHED: &str = include_str!("../../../data/uap-core/regexes.json");

/// What Android's browsers say in place of a model.
const MODEL_HIDDEN: &str = "; K)";

pub(super) struct Rules {
    published: Extractor<'static>,
}

impl Rules {
    /// The rules of this process; loads them at the first call.
    pub(super) fn shared() -> &'static Self {
        static SHARED: LazyLock<Rules> = LazyLock::new(|| {
            let rules: Regexes<'static> =
                serde_json::from_str(PUBLISHED).expect("what ships is JSON of rules");
            let published = rules.try_into().expect("what ships can be compiled");
            Rules { published }
        });
        &SHARED
    }

    /// Names the published rules, without loading them.
    pub(super) fn digest() -> u32 {
        xxh3_64(PUBLISHED.as_bytes()) as u32
    }

    /// The device of which `said` tells; `None` when it tells nothing.
    pub(super) fn device(&self, said: &Said<'_>) -> Option<DeviceSeen> {
        let hinted = Hinted::by(said);
        let mut device = DeviceSeen::default();
        self.read_browser(said, &hinted, &mut device);
        self.read_system(said, &hinted, &mut device);
        let is_spider = self.read_hardware(said, &hinted, &mut device);
        let agent = said.agent().to_ascii_lowercase();
        device.bot = is_spider || hinted.headless || class::is_program(&agent);
        if device == DeviceSeen::default() {
            return None;
        }
        let system = device.os.as_deref().unwrap_or_default().to_ascii_lowercase();
        device.class =
            Some(if device.bot { "bot" } else { class::class(&agent, &system, hinted.mobile) });
        Some(device)
    }

    fn read_browser(&self, said: &Said<'_>, hinted: &Hinted, device: &mut DeviceSeen) {
        if let Some(it) = self.published.ua.extract(said.agent()) {
            device.browser = value(&it.family);
            device.browser_version = version([it.major, it.minor, it.patch]);
        }
        let Some((family, exact)) = &hinted.browser else { return };
        let seen = device.browser.as_deref().unwrap_or_default();
        // `Edge Mobile` stays so. What the agent names beside Chrome, an app's view say, does too.
        if seen.starts_with("Chrome") && *family != "Chrome" {
            device.browser = value(family);
        } else if !seen.starts_with(family) {
            return;
        }
        let mut numbers = exact.split('.');
        device.browser_version = version([numbers.next(), numbers.next(), numbers.next()]);
    }

    fn read_system(&self, said: &Said<'_>, hinted: &Hinted, device: &mut DeviceSeen) {
        if let Some(it) = self.published.os.extract(said.agent()) {
            device.os = value(&it.os);
            device.os_version = version([&it.major, &it.minor, &it.patch].map(|it| it.as_deref()));
        }
        if let (Some(os), Some(os_version)) = (hinted.os, &hinted.os_version) {
            device.os = value(os);
            device.os_version = value(os_version);
        }
    }

    /// Reads brand and model; whether the published rules know the agent as a bot's.
    fn read_hardware(&self, said: &Said<'_>, hinted: &Hinted, device: &mut DeviceSeen) -> bool {
        let named = hinted.model.as_ref().filter(|_| said.agent().contains(MODEL_HIDDEN));
        let agent = match named {
            Some(model) => said.agent().replacen(MODEL_HIDDEN, &format!("; {model})"), 1),
            None => said.agent().to_owned(),
        };
        let Some(it) = self.published.dev.extract(&agent) else { return false };
        let is_spider = it.device == "Spider";
        let brand = it.brand.as_deref().unwrap_or_default();
        if !is_spider && !brand.starts_with("Generic") {
            device.brand = value(brand);
            device.model = it.model.as_deref().and_then(value);
        }
        if let Some(model) = named {
            device.model = value(model);
        }
        is_spider
    }
}

fn value(text: &str) -> Option<String> {
    let text = cut(text.trim(), VALUE_BYTES_MAX);
    (!text.is_empty()).then(|| text.to_owned())
}

fn version(numbers: [Option<&str>; 3]) -> Option<String> {
    let mut version = String::new();
    for number in numbers.into_iter().map_while(|it| it.filter(|it| !it.is_empty())) {
        if !version.is_empty() {
            version.push('.');
        }
        version.push_str(number);
    }
    value(&version)
}
