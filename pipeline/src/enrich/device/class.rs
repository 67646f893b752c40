//! What the published rules do not tell: what class a device is of, and which agents are programs.
//!
//! All words are looked for in the agent in lower case. The first class that fits is taken, in the
//! order of [`class`]: an agent of a television says `Android` and `Mobile` too.

/// Browsers that are driven by a program, and what drives them.
const DRIVEN: &[&str] = &[
    "headless",
    "phantomjs",
    "puppeteer",
    "playwright",
    "selenium",
    "webdriver",
    "cypress/",
    "lighthouse",
    "slimerjs",
];

/// Libraries and tools that make requests by themselves. Those that apps are built on, `okhttp`,
/// `CFNetwork` and `Dalvik`, are none: a person may sit before the app.
const LIBRARIES: &[&str] = &[
    "aiohttp/",
    "apache-httpclient/",
    "apachebench/",
    "axios/",
    "curl/",
    "deno/",
    "faraday v",
    "go-http-client/",
    "got (",
    "guzzlehttp/",
    "httpie/",
    "insomnia/",
    "jakarta commons",
    "jmeter",
    "k6/",
    "libwww-perl/",
    "node-fetch",
    "postmanruntime/",
    "python-httpx/",
    "python-requests/",
    "python-urllib/",
    "reqwest/",
    "rest-client/",
    "scrapy/",
    "undici",
    "urllib3/",
    "vegeta",
    "wget/",
    "wrk/",
];

/// Those whose name may be a part of others' words: as the first word alone.
const LIBRARIES_FIRST: &[&str] = &["bun", "java", "node", "ruby", "hyper", "ureq"];

const TELEVISIONS: &[&str] = &[
    "smart-tv",
    "smarttv",
    "smart tv",
    "appletv",
    "apple tv",
    "googletv",
    "google tv",
    "android tv",
    "androidtv",
    "hbbtv",
    "netcast",
    "web0s",
    "webos.tv",
    "crkey",
    "roku",
    "bravia",
    "viera",
    "aquosbrowser",
    "; aft",
    "tvos",
    "dtv",
    "netrange",
];
const CONSOLES: &[&str] = &["playstation", "nintendo", "xbox"];
const WATCHES: &[&str] = &["watchos", "apple watch", "applewatch", "wear os", "; sm-r8", "; sm-r9"];
const TABLETS: &[&str] = &["ipad", "tablet", "playbook", "kindle", "silk/", "touchpad"];
const MOBILES: &[&str] = &[
    "iphone",
    "ipod",
    "mobile",
    "windows phone",
    "blackberry",
    "bb10",
    "opera mini",
    "opera mobi",
    "kaios",
    "symbian",
    "midp",
    "phone",
];
/// Families of systems, as the published rules name them in lower case: of a desk, of a hand.
const DESKTOP_SYSTEMS: &[&str] = &[
    "windows",
    "mac os x",
    "mac os",
    "linux",
    "ubuntu",
    "debian",
    "fedora",
    "chrome os",
    "freebsd",
    "openbsd",
    "netbsd",
    "solaris",
    "red hat",
    "suse",
    "centos",
    "arch linux",
    "mint",
    "gentoo",
];
const MOBILE_SYSTEMS: &[&str] =
    &["ios", "android", "windows phone", "windows mobile", "blackberry os", "firefox os", "kaios"];

/// Whether a program sent `agent`, which is in lower case, by the words above.
pub(super) fn is_program(agent: &str) -> bool {
    has(agent, DRIVEN) || has(agent, LIBRARIES) || LIBRARIES_FIRST.contains(&first_word(agent))
}

fn first_word(agent: &str) -> &str {
    agent.split(|letter: char| !letter.is_ascii_alphanumeric()).next().unwrap_or_default()
}

/// The class of a device that is no bot. `agent` and the system's family are in lower case;
/// `mobile` is what the browser says beside its agent string.
pub(super) fn class(agent: &str, system: &str, mobile: Option<bool>) -> &'static str {
    let is_android = system == "android" || agent.contains("android");
    if has(agent, TELEVISIONS) {
        "tv"
    } else if has(agent, CONSOLES) {
        "console"
    } else if has(agent, WATCHES) || system == "watchos" {
        "watch"
    } else if has(agent, TABLETS) {
        // Windows says `Tablet PC` on any machine with a pen.
        if agent.contains("windows nt") { "desktop" } else { "tablet" }
    } else if is_android {
        android(agent, mobile)
    } else if mobile == Some(true) || has(agent, MOBILES) || MOBILE_SYSTEMS.contains(&system) {
        "mobile"
    } else if DESKTOP_SYSTEMS.contains(&system) {
        "desktop"
    } else {
        "other"
    }
}

/// Browsers on Android say `Mobile` on phones alone; apps say nothing of the kind.
fn android(agent: &str, mobile: Option<bool>) -> &'static str {
    let is_browser = agent.starts_with("mozilla/");
    let is_tablet = match mobile {
        Some(mobile) => !mobile,
        None => is_browser && !agent.contains("mobile"),
    };
    if is_tablet { "tablet" } else { "mobile" }
}

fn has(agent: &str, words: &[&str]) -> bool {
    words.iter().any(|word| agent.contains(word))
}
