//! What agents and hints are read as, and what they cost at the worst.

use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tracklog_protocol::event::EventParts;

use super::*;
use crate::enrich::text::cut;
use crate::state::StateOptions;
use crate::state::rig::Rig;

const CHROME_ON_WINDOWS: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 \
    (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36";
const CHROME_ON_ANDROID: &str = "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like \
    Gecko) Chrome/130.0.0.0 Mobile Safari/537.36";
const SAFARI_ON_IPHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) \
    AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1";

fn device() -> Device {
    Device::new(DeviceOptions::default())
}

fn seen(agent: Option<&str>, headers: &[(&str, &str)]) -> Option<DeviceSeen> {
    let event = EventParts { user_agent: agent, headers, ..EventParts::default() };
    let rig = Rig::new(StateOptions::default());
    let found = rig.run(&[event], &[&device()], true).remove(0);
    found.device.map(|device| (*device).clone())
}

fn seen_by_agent(agent: &str) -> DeviceSeen {
    seen(Some(agent), &[]).unwrap()
}

fn texts(device: &DeviceSeen) -> [&str; 6] {
    [
        &device.browser,
        &device.browser_version,
        &device.os,
        &device.os_version,
        &device.brand,
        &device.model,
    ]
    .map(|text| text.as_deref().unwrap_or_default())
}

#[test]
fn browser_system_and_hardware_are_read() {
    let iphone = seen_by_agent(SAFARI_ON_IPHONE);
    assert_eq!(texts(&iphone), ["Mobile Safari", "17.5", "iOS", "17.5", "Apple", "iPhone"]);
    let windows = seen_by_agent(CHROME_ON_WINDOWS);
    assert_eq!(texts(&windows), ["Chrome", "130.0.0", "Windows", "10", "", ""]);
    let galaxy = seen_by_agent(
        "Mozilla/5.0 (Linux; Android 14; SM-S921B) AppleWebKit/537.36 (KHTML, like Gecko) \
         Chrome/126.0.0.0 Mobile Safari/537.36",
    );
    assert_eq!(
        texts(&galaxy),
        ["Chrome Mobile", "126.0.0", "Android", "14", "Samsung", "SM-S921B"]
    );
}

#[test]
fn the_internet_explorer_that_hides_its_name_is_found() {
    let agent = "Mozilla/5.0 (Windows NT 6.1; WOW64; Trident/7.0; rv:11.0) like Gecko";
    let device = seen_by_agent(agent);
    assert_eq!(texts(&device), ["IE", "11.0", "Windows", "7", "", ""]);
    assert_eq!(device.class, Some("desktop"));
}

#[test]
fn no_agent_is_a_miss() {
    for agent in [None, Some(""), Some("-"), Some("  "), Some("\u{fffd}"), Some("?")] {
        assert_eq!(seen(agent, &[]), None, "{agent:?}");
    }
}

#[test]
fn four_hundred_digits_still_come_from_a_phone() {
    let agent = format!(
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/{} (KHTML, like \
         Gecko) Version/17.5 Mobile/15E148 Safari/604.1",
        "1234567890".repeat(40)
    );
    let device = seen_by_agent(&agent);
    assert_eq!((device.os.as_deref(), device.class), (Some("iOS"), Some("mobile")));
}

#[test]
fn each_class_has_its_devices() {
    let agents = [
        (CHROME_ON_WINDOWS, "desktop"),
        (
            "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) \
          Chrome/130.0.0.0 Safari/537.36",
            "desktop",
        ),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:131.0) Gecko/20100101 Firefox/131.0", "desktop"),
        (
            "Mozilla/5.0 (compatible; MSIE 10.0; Windows NT 6.1; Trident/6.0; Tablet PC 2.0)",
            "desktop",
        ),
        (CHROME_ON_ANDROID, "mobile"),
        (SAFARI_ON_IPHONE, "mobile"),
        ("Shop/3.1 (com.shop.app; build:7; iOS 17.5.1) Alamofire/5.9", "mobile"),
        ("Shop/812 CFNetwork/1496.0.7 Darwin/23.5.0", "mobile"),
        ("Dalvik/2.1.0 (Linux; U; Android 13; Pixel 7 Build/TQ3A)", "mobile"),
        (
            "Mozilla/5.0 (iPad; CPU OS 16_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
          Version/16.6 Mobile/15E148 Safari/604.1",
            "tablet",
        ),
        (
            "Mozilla/5.0 (Linux; Android 13; SM-X700) AppleWebKit/537.36 (KHTML, like Gecko) \
          Chrome/130.0.0.0 Safari/537.36",
            "tablet",
        ),
        (
            "Mozilla/5.0 (Web0S; Linux/SmartTV) AppleWebKit/537.36 (KHTML, like Gecko) \
          Chrome/94.0.4606.128 Safari/537.36 WebAppManager",
            "tv",
        ),
        (
            "Mozilla/5.0 (Linux; Android 9; AFTMM Build/PS7633) AppleWebKit/537.36 (KHTML, like \
          Gecko) Chrome/70.0.3538.110 Mobile Safari/537.36",
            "tv",
        ),
        (
            "Mozilla/5.0 (PlayStation; PlayStation 5/2.26) AppleWebKit/605.1.15 (KHTML, like Gecko) \
          Version/13.0 Safari/605.1.15",
            "console",
        ),
        ("Shop/1 (Apple Watch; watchOS 10.4)", "watch"),
    ];
    for (agent, class) in agents {
        let device = seen_by_agent(agent);
        assert_eq!((device.class, device.bot), (Some(class), false), "{agent}");
    }
}

#[test]
fn programs_are_bots() {
    let agents = [
        "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
         HeadlessChrome/130.0.0.0 Safari/537.36",
        "curl/8.5.0",
        "python-requests/2.32.3",
        "Go-http-client/2.0",
        "Java/17.0.9",
        "node",
    ];
    for agent in agents {
        let device = seen_by_agent(agent);
        assert_eq!((device.class, device.bot), (Some("bot"), true), "{agent}");
        assert_eq!((device.brand, device.model), (None, None), "{agent}");
    }
}

#[test]
fn apps_on_an_http_library_are_no_bots() {
    assert!(!seen(Some("okhttp/4.12.0"), &[]).is_some_and(|device| device.bot));
    assert!(!seen_by_agent("Shop/812 CFNetwork/1496.0.7 Darwin/23.5.0").bot);
}

#[test]
fn hints_tell_windows_11_and_the_exact_version() {
    let headers = [
        ("sec-ch-ua-platform", r#""Windows""#),
        ("sec-ch-ua-platform-version", r#""15.0.0""#),
        (
            "sec-ch-ua-full-version-list",
            r#""Chromium";v="130.0.6723.70", "Google Chrome";v="130.0.6723.70", "N";v="99""#,
        ),
    ];
    let device = seen(Some(CHROME_ON_WINDOWS), &headers).unwrap();
    assert_eq!(texts(&device), ["Chrome", "130.0.6723", "Windows", "11", "", ""]);
}

#[test]
fn hints_tell_the_model_that_android_hides_and_who_made_it() {
    let headers = [
        ("sec-ch-ua-platform", r#""Android""#),
        ("sec-ch-ua-platform-version", r#""14.0.0""#),
        ("sec-ch-ua-model", r#""SM-S921B""#),
        ("sec-ch-ua-mobile", "?1"),
    ];
    let device = seen(Some(CHROME_ON_ANDROID), &headers).unwrap();
    assert_eq!(
        texts(&device),
        ["Chrome Mobile", "130.0.0", "Android", "14", "Samsung", "SM-S921B"]
    );
    let bare = seen(Some(CHROME_ON_ANDROID), &[]).unwrap();
    assert_eq!((bare.brand, bare.model), (None, None), "K is no model");
}

#[test]
fn hints_tell_a_browser_that_calls_itself_chrome() {
    let headers = [("sec-ch-ua", r#""Chromium";v="130", "Brave";v="130", "Not?A";v="99""#)];
    let device = seen(Some(CHROME_ON_WINDOWS), &headers).unwrap();
    assert_eq!(texts(&device)[..2], ["Brave", "130"]);
}

#[test]
fn a_server_s_own_program_tells_nothing_of_its_user() {
    let rig = Rig::new(StateOptions::default());
    let event = |library_name, user_agent| EventParts {
        library_name: Some(library_name),
        user_agent: Some(user_agent),
        ..EventParts::default()
    };
    let events = [
        event("analytics-python", "python-requests/2.32"),
        event("analytics.js", "python-requests/2.32"),
        event("analytics-node", SAFARI_ON_IPHONE),
    ];
    let seen = rig.run(&events, &[&device()], true);
    let bots = seen.iter().map(|it| it.device.as_ref().map(|device| device.bot));
    assert_eq!(bots.collect::<Vec<_>>(), [None, Some(true), Some(false)]);
}

#[test]
fn a_word_that_begins_like_a_library_is_none() {
    assert!(is_program("node") && is_program("node/22") && is_program("Java/17.0.2"));
    for agent in ["NodeRunner/1.0", "JavaFX Player", "Rubygem Store"] {
        assert!(!is_program(agent), "{agent}");
    }
}

#[test]
fn a_headless_brand_is_a_bot() {
    let headers = [("sec-ch-ua", r#""HeadlessChrome";v="130", "Chromium";v="130""#)];
    assert!(seen(Some(CHROME_ON_WINDOWS), &headers).unwrap().bot);
}

#[test]
fn hints_beside_an_agent_that_sends_none_are_not_read() {
    let headers =
        [("sec-ch-ua-platform", r#""Windows""#), ("sec-ch-ua-platform-version", r#""15.0.0""#)];
    assert_eq!(seen(Some(SAFARI_ON_IPHONE), &headers).unwrap().os.as_deref(), Some("iOS"));
}

#[test]
fn another_hint_is_another_answer() {
    let device = device();
    let rig = Rig::new(StateOptions::default());
    let with = |version| {
        let headers =
            [("sec-ch-ua-platform", r#""Windows""#), ("sec-ch-ua-platform-version", version)];
        let event = EventParts {
            user_agent: Some(CHROME_ON_WINDOWS),
            headers: &headers,
            ..EventParts::default()
        };
        rig.run(&[event], &[&device], true).remove(0).device.unwrap().os_version.clone()
    };
    let versions = [r#""15.0.0""#, r#""10.0.0""#, r#""15.0.0""#, "nonsense"].map(with);
    assert_eq!(versions.map(Option::unwrap), ["11", "10", "11", "10"]);
}

#[test]
fn a_kept_text_is_found_by_the_borrowed_one() {
    let said = Said::agent_alone(CHROME_ON_WINDOWS).unwrap();
    let hashing = RandomState::default();
    assert_eq!(hashing.hash_one(said), hashing.hash_one(said.kept()));
    assert!(quick_cache::Equivalent::equivalent(&said, &said.kept()));
}

#[test]
fn the_cache_stays_within_its_bytes() {
    let device = Device::new(DeviceOptions { cache_bytes: 64 << 10 });
    for n in 0..1000 {
        let agent = format!("{CHROME_ON_WINDOWS} {n} {}", "x".repeat(n));
        device.answer(&Said::agent_alone(&agent).unwrap());
    }
    assert!(device.cache.weight() <= 64 << 10);
    assert!(!device.cache.is_empty());
}

#[test]
fn an_agent_is_cut_between_characters() {
    let agent = format!("{CHROME_ON_WINDOWS} {}", "ü".repeat(AGENT_BYTES_MAX));
    let said = Said::agent_alone(&agent).unwrap();
    assert!(said.agent().len() <= AGENT_BYTES_MAX);
    assert_eq!(seen_by_agent(&agent).browser.as_deref(), Some("Chrome"));
}

#[test]
fn the_worst_agent_costs_bounded_time() {
    let rules = Rules::shared();
    let worst = worst_agents();
    let slowest = worst.iter().map(|agent| cost(rules, agent)).max().unwrap();
    // Generous, for a busy machine without optimisation: the point is that it is no second.
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
}

/// Agents made to wake as many rules as they can, and to keep them at work.
fn worst_agents() -> Vec<String> {
    let words = "Mozilla/5.0 (Linux; Android 10; SM-; HTC; LG-; Nokia; Lenovo; Huawei) \
                 AppleWebKit/ Chrome/ Safari/ Version/ Mobile/ Opera Firefox/ MSIE iPhone iPad bot ";
    vec![
        "1234567890".repeat(10_000),
        "; ".repeat(50_000),
        "Mozilla/5.0 ".repeat(8_000),
        words.repeat(500),
        format!("Mozilla/5.0 (Linux; Android {}", "1.".repeat(50_000)),
        format!("Mozilla/5.0 ({}", "Build/ ".repeat(10_000)),
        "bot spider crawl ".repeat(6_000),
        "\u{10ffff}".repeat(25_000),
    ]
}

fn cost(rules: &Rules, agent: &str) -> Duration {
    let said = Said::agent_alone(agent).unwrap();
    let begun = Instant::now();
    rules.device(&said);
    let took = begun.elapsed();
    println!("{took:?} for {}", cut(agent, 40));
    took
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_text_breaks_it(agent in "\\PC{0,200}|(Mozilla/5.0 \\(|Android|; |Chrome/|[0-9.]{1,9}|\\)){0,20}", hint in "\\PC{0,60}|(\"|;v=|,|Brave|\\\\){0,12}") {
        let names = ["", "-mobile", "-platform", "-platform-version", "-model", "-full-version-list"]
            .map(|name| format!("sec-ch-ua{name}"));
        let headers: Vec<_> = names.iter().map(|name| (name.as_str(), hint.as_str())).collect();
        let agent = format!("{agent} Chrome/1");
        seen(Some(&agent), &headers);
    }
}
