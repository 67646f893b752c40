//! What a configuration says, and how its mistakes are told.

use tracklog_ingest_gateway::source::Required;

use super::*;

/// A file with this text, as the flag that names it.
fn configured(text: &str) -> (tempfile::TempDir, Flags) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tracklog.toml");
    std::fs::write(&path, text).unwrap();
    (folder, Flags { config: Some(path), ..Flags::default() })
}

fn environment(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn refused(text: &str) -> String {
    let (_folder, flags) = configured(text);
    let message = Settings::load(&flags, []).unwrap_err().to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    message.split_once("tracklog.toml").expect("it names the file").1.to_owned()
}

#[test]
fn without_anything_there_are_defaults() {
    let settings = Settings::load(&Flags::default(), []).unwrap();
    assert_eq!(settings.data, Path::new("./tracklog-data"));
    assert_eq!(settings.http, Some("127.0.0.1:8080".parse().unwrap()));
    assert_eq!(settings.https, Some("127.0.0.1:8443".parse().unwrap()));
    assert_eq!(settings.sources.keys().collect::<Vec<_>>(), ["default"]);
    assert_eq!(settings.journal.dedupe_window, Some(Duration::from_secs(24 * 3_600)));
    assert_eq!(settings.requests, RequestLimits::DEFAULT);
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let (_folder, mut flags) = configured("http = \"127.0.0.1:1\"\nhttps = \"off\"\ndata = \"a\"");
    let variables = environment(&[("TRACKLOG_HTTP", "127.0.0.1:2"), ("TRACKLOG_DATA", "b")]);
    let settings = Settings::load(&flags, variables.clone()).unwrap();
    assert_eq!(settings.http, Some("127.0.0.1:2".parse().unwrap()));
    assert_eq!((settings.https, settings.data.to_str()), (None, Some("b")));
    flags.http = Some("127.0.0.1:3".to_owned());
    flags.data = Some("c".into());
    let settings = Settings::load(&flags, variables).unwrap();
    assert_eq!(settings.http, Some("127.0.0.1:3".parse().unwrap()));
    assert_eq!(settings.data.to_str(), Some("c"));
}

#[test]
fn every_kind_of_value_can_come_from_the_environment() {
    let settings = Settings::load(
        &Flags::default(),
        environment(&[
            ("TRACKLOG_SLOT_BYTES", "16777216"),
            ("TRACKLOG_JOURNAL_BYTES_MAX", "2 GiB"),
            ("TRACKLOG_WHEN_FULL", "drop_oldest"),
            ("TRACKLOG_BACKEND", "blocking"),
            ("TRACKLOG_TRUSTED_PROXIES", "10.0.0.0/8, 192.168.0.0/16"),
            ("TRACKLOG_LIMITS_EVENTS_MAX", "50"),
            ("TRACKLOG_LIMITS_ANSWER_TIMEOUT", "900ms"),
            ("TRACKLOG_DEDUPE_WINDOW", "90m"),
            ("TRACKLOG_IDS_BYTES_MAX", "64 MiB"),
            ("TRACKLOG_PORT", "tcp://10.0.0.1:80"),
            ("TRACKLOG_LOG", "warn"),
        ]),
    );
    let settings = settings.unwrap();
    assert_eq!(settings.journal.slot_bytes, Some(16 << 20));
    assert_eq!(settings.journal.bytes_max, Some(2 << 30));
    assert_eq!(settings.journal.when_full, WhenFullSetting::DropOldest);
    assert_eq!(settings.journal.backend, BackendName::Blocking);
    assert_eq!(settings.journal.dedupe_window, Some(Duration::from_secs(90 * 60)));
    assert_eq!(settings.journal.ids_bytes_max, Some(64 << 20));
    let networks: Vec<_> = settings.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "192.168.0.0/16"]);
    assert_eq!(settings.sources["default"].scan_limits().events_max, 50);
    assert_eq!(settings.requests.answer_timeout, Duration::from_millis(900));
    assert_eq!(settings.log, "warn");
}

#[test]
fn a_bad_variable_is_named() {
    for (name, value, says) in [
        ("TRACKLOG_BACKEND", "fast", "unknown variant `fast`"),
        ("TRACKLOG_SLOT_BYTES", "big", "\"big\" is no size"),
        ("TRACKLOG_DEDUPE_WINDOW", "a day", "is no time like \"24h\", and not \"off\""),
        ("TRACKLOG_HTTP", "8080", "is no address like 127.0.0.1:8080"),
        ("TRACKLOG_TRUSTED_PROXIES", "10.0.0.0/8, ten", "\"ten\" is no network"),
    ] {
        let message = Settings::load(&Flags::default(), environment(&[(name, value)]));
        let message = message.unwrap_err().to_string();
        assert!(message.starts_with(name) && message.contains(says), "{message}");
        assert_eq!(message.lines().count(), 1);
    }
}

#[test]
fn dedupe_can_be_off() {
    let variables = environment(&[("TRACKLOG_DEDUPE_WINDOW", "off")]);
    let settings = Settings::load(&Flags::default(), variables).unwrap();
    assert_eq!(settings.journal.dedupe_window, None);
}

#[test]
fn a_key_that_nobody_reads_is_refused_with_its_line() {
    let message = refused("data = \"x\"\n\nhtpp = \"127.0.0.1:1\"\n");
    assert!(message.starts_with(":3: unknown field `htpp`"), "{message}");
    let message = refused("[limits]\nevents = 3\n");
    assert!(message.starts_with(":2: unknown field `events`"), "{message}");
    let message = refused("[sources.web]\nwrite_key = \"k\"\nuser = \"hmac\"\n");
    assert!(message.starts_with(":3: unknown field `user`"), "{message}");
    let message = refused("data = \"x\nhttp = 3");
    assert!(message.starts_with(":1: "), "{message}");
}

#[test]
fn a_bad_value_is_refused_with_its_line() {
    let message = refused("slot_bytes = \"16 MB\"\n");
    assert!(message.starts_with(":1: \"16 MB\" is no size"), "{message}");
    let message = refused("\n[sources.web]\nwrite_key = \"k\"\nip = \"hide\"\n");
    assert!(message.starts_with(":4: unknown variant `hide`"), "{message}");
}

#[test]
fn sources_say_who_may_send() {
    let (_folder, flags) = configured(
        "[sources.web]\nwrite_key = \"k1\"\nuser_id = \"hmac\"\nip = \"truncate\"\n\
         require = [\"session\"]\norigins = [\"https://shop.example\"]\nevent_bytes_max = \"8 KiB\"\n\
         [sources.app]\nwrite_key_file = \"app.key\"\nunknown_events = \"reject\"\n",
    );
    let settings = Settings::load(&flags, []).unwrap();
    assert_eq!(settings.sources.keys().collect::<Vec<_>>(), ["app", "default", "web"]);
    let web = &settings.sources["web"];
    assert_eq!((web.user_id, web.ip), (UserIdSetting::Hmac, IpSetting::Truncate));
    assert_eq!(web.scan_limits().event_bytes_max, 8 << 10);
    assert_eq!(web.required().unwrap(), [Required::Session]);
    assert_eq!(settings.sources["app"].unknown_events, UnknownEventsSetting::Reject);
}

#[test]
fn a_source_needs_one_key_of_its_own() {
    let says = |text| refused(text);
    assert!(says("[sources.web]\n").ends_with("write_key or write_key_file is missing"));
    assert!(says("[sources.web]\nwrite_key = \"\"\n").ends_with("write_key is empty"));
    let both = "[sources.web]\nwrite_key = \"k\"\nwrite_key_file = \"f\"\n";
    assert!(says(both).ends_with("exclude each other"));
    let typo = "[sources.a]\nwrite_key = \"k\"\nrequire = [\"sesion\"]\n";
    assert!(says(typo).contains("[sources.a]: cannot require `sesion`"));
    let twice = "[sources.a]\nwrite_key = \"k\"\n[sources.b]\nwrite_key = \"k\"\n";
    assert!(says(twice).ends_with("[sources.b]: has the write key of [sources.a]"));
}

#[test]
fn certificate_and_key_belong_together() {
    assert!(refused("certificate = \"c.pem\"\n").contains("belong together"));
    let (_folder, flags) = configured("http = \"off\"\nhttps = \"off\"\n");
    assert!(Settings::load(&flags, []).is_err(), "nothing to serve");
}

#[test]
fn a_missing_file_is_one_line() {
    let flags = Flags { config: Some("no/such.toml".into()), ..Flags::default() };
    let message = Settings::load(&flags, []).unwrap_err().to_string();
    assert!(message.starts_with("no/such.toml: No such file"), "{message}");
}

#[test]
fn enrichers_are_on_unless_the_file_says_otherwise() {
    let settings = Settings::load(&Flags::default(), []).unwrap();
    assert_eq!(settings.enrich, EnrichSettings::default());
    assert!(settings.enrich.enabled && settings.enrich.device.enabled);
    let text = "[enrich]\nfailed_lookup = \"reject\"\n[enrich.session]\ninactivity = \"10m\"\n\
                [enrich.geo]\nenabled = false\ndatabases = [\"city.mmdb\"]";
    let (_folder, flags) = configured(text);
    let enrich = Settings::load(&flags, []).unwrap().enrich;
    assert_eq!(enrich.failed_lookup, FailedLookup::Reject);
    assert_eq!(enrich.session.inactivity(), Duration::from_secs(600));
    assert!(!enrich.geo.enabled && enrich.page.enabled);
    let told = refused("[enrich.geo]\nfile = \"city.mmdb\"");
    assert!(told.starts_with(":2: ") && told.contains("file"), "{told}");
}

#[test]
fn the_archive_is_on_unless_the_file_says_otherwise() {
    let settings = Settings::load(&Flags::default(), []).unwrap();
    assert_eq!(settings.archive, ArchiveSettings::default());
    assert!(settings.archive.enabled && settings.archive.url.is_none());
    let text = "[archive]\nurl = \"s3://bucket/events\"\nflush_bytes = \"1 MiB\"\n\
                flush_interval = \"10s\"";
    let (_folder, flags) = configured(text);
    let archive = Settings::load(&flags, []).unwrap().archive;
    assert_eq!(archive.url.as_deref(), Some("s3://bucket/events"));
    assert_eq!(archive.flush_bytes(), 1 << 20);
    assert_eq!(archive.flush_interval(), Duration::from_secs(10));
    assert!(refused("[archive]\nflush = \"10s\"").contains(":2: unknown field `flush`"));
}

#[test]
fn a_profile_store_outside_says_what_it_is_asked_and_nothing_that_fits_another() {
    let text = "[enrich.profile]\nstore = \"redis\"\nurl = \"redis://:secret@cache:6379\"\n\
                user_key = \"user:{id}\"\ntimeout = \"50ms\"\ncache_ttl = \"5m\"";
    let (_folder, flags) = configured(text);
    let profile = Settings::load(&flags, []).unwrap().enrich.profile;
    let keys = ForEach { user: Some("user:{id}".to_owned()), group: None };
    let expected = ExternalStore::Redis { keys, layout: RedisLayout::Json };
    assert_eq!(profile.external(), Ok(Some(expected)));
    let options = profile.external_options(true);
    assert_eq!(options.timeout, Duration::from_millis(50));
    assert_eq!(options.time_to_live, Duration::from_secs(300));
    assert_eq!(profile.read_url().unwrap(), "redis://:secret@cache:6379");
    assert!(!format!("{profile:?}").contains("secret"), "it may be printed");

    let told = |text: &str| refused(&format!("[enrich.profile]\n{text}"));
    for (text, what) in [
        ("url = \"redis://x\"", "url means nothing to store = \"embedded\""),
        ("store = \"redis\"\nuser_key = \"{id}\"", "one of url and url_file is wanted"),
        ("store = \"redis\"\nurl = \"a\"\nurl_file = \"b\"", "one of url and url_file is wanted"),
        ("store = \"redis\"\nurl = \"a\"", "user_key or group_key is missing"),
        ("store = \"redis\"\nurl = \"a\"\nuser_key = \"user\"", "\"user\" has no {id}"),
        (
            "store = \"redis\"\nurl = \"a\"\nuser_query = \"x\"",
            "user_query means nothing to store = \"redis\"",
        ),
        (
            "store = \"postgres\"\nurl = \"a\"\nlayout = \"hash\"",
            "layout means nothing to store = \"postgres\"",
        ),
        ("store = \"postgres\"\nurl = \"a\"\nuser_query = \"SELECT 1\"", "\"SELECT 1\" has no $1"),
    ] {
        let told = told(text);
        assert!(told.contains("[enrich.profile]") && told.ends_with(what), "{text}: {told}");
    }
}
