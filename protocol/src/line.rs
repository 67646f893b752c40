//! Records as lines of JSON: the one form in which they leave the log for people and programs.
//!
//! Promises
//! - One record, one line: it holds no line break but the one at its end.
//! - Every line is one JSON object. Fields come in a fixed order; absent ones are left out.
//! - `properties`, `traits`, `context`, `integrations` and `extra` hold the tokens that the client
//!   sent, digit by digit, and so do the traits of a profile. Only line breaks between tokens
//!   become spaces.
//! - What enrichment found out stands between what was known before and `properties`. An event
//!   that was not enriched shows nothing of it.
//! - Our times are RFC 3339 in UTC with six digits.
//!
//! `replay`, `tail`, the reading routes and the archive all call [`write_line`].

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::event::{
    CampaignParts, DeviceParts, EnrichedParts, EventFlags, EventView, GeoParts, PageParts,
    ProfileParts, SessionParts,
};
use crate::rejected::RejectedView;
use crate::{Offset, PayloadKind, Record, TimeMicros};

/// Where a record lies, and since when.
#[derive(Clone, Copy, Debug)]
pub struct LinePlace<'a> {
    /// The topic's name.
    pub topic: &'a str,
    /// The partition's index in it.
    pub partition: u32,
    /// The record's offset in that.
    pub offset: Offset,
    /// When it was appended.
    pub appended_at: TimeMicros,
}

/// Appends the line of `record`, line break included, to `out`.
pub fn write_line(out: &mut Vec<u8>, at: LinePlace<'_>, record: Record<'_>) {
    let mut line = Line::begin(out, &at);
    match record.kind() {
        PayloadKind::Event => write_event(&mut line, &at, record),
        PayloadKind::Rejected => write_rejected(&mut line, &at, record),
        PayloadKind::KeyValue => write_key_value(&mut line, &at, record),
        PayloadKind::Opaque => {
            line.time("appendedAt", at.appended_at);
            line.bytes("value", "value_base64", record.bytes());
        }
    }
    line.end();
}

/// Appends what enrichment found out to `out`, as it stands in a line, as an object of its own.
pub fn write_enrichment(out: &mut Vec<u8>, enriched: &EnrichedParts<'_>) {
    let start = out.len();
    write_enriched(&mut Line { out }, enriched);
    if out.len() == start {
        out.push(b'{');
    } else {
        out[start] = b'{';
    }
    out.push(b'}');
}

/// `time` as RFC 3339 in UTC with six digits; years outside of 0000–9999 have a sign and six
/// digits, as in ISO 8601.
#[must_use]
pub fn format_time(time: TimeMicros) -> String {
    let mut out = Vec::with_capacity(27);
    write_time(&mut out, time);
    String::from_utf8(out).expect("a time is written in ASCII")
}

fn write_event(line: &mut Line<'_>, at: &LinePlace<'_>, record: Record<'_>) {
    let event = EventView::of(record).expect("the record is of kind event");
    line.text("messageId", event.message_id());
    line.text("type", event.kind().as_str());
    line.text_if("event", event.name());
    line.text_if("source", event.source());
    line.text_if("anonymousId", event.anonymous_id());
    line.text_if("userId", event.user_id());
    line.text_if("previousId", event.previous_id());
    line.text_if("groupId", event.group_id());
    line.text_if("sessionId", event.session_id());
    line.time("timestamp", event.event_time());
    if let Some(time) = event.client_time() {
        line.time("originalTimestamp", time);
    }
    write_sent_time(line, &event);
    line.time("receivedAt", event.received_time());
    line.time("appendedAt", at.appended_at);
    write_event_details(line, &event);
    write_enriched(line, &event.enriched());
    line.json_if("properties", event.properties());
    line.json_if("traits", event.traits());
    line.json_if("context", event.context());
    line.json_if("integrations", event.integrations());
    line.json_if("extra", event.extra());
}

fn write_sent_time(line: &mut Line<'_>, event: &EventView<'_>) {
    if event.flags().contains(EventFlags::SENT_TIME_BARE) {
        line.json_if("sentAt", event.sent_time_text());
    } else {
        line.text_if("sentAt", event.sent_time_text());
    }
}

/// What was taken out of the context, or is known of the request alone.
fn write_event_details(line: &mut Line<'_>, event: &EventView<'_>) {
    line.text_if("category", event.category());
    line.text_if("channel", event.channel());
    line.text_if("locale", event.locale());
    line.text_if("userAgent", event.user_agent());
    line.text_if("clientAddress", event.client_address());
    line.text_if("peerAddress", event.peer_address());
    line.object("library", |library| {
        library.text_if("name", event.library_name());
        library.text_if("version", event.library_version());
    });
    line.object("page", |page| {
        page.text_if("url", event.page_url());
        page.text_if("path", event.page_path());
        page.text_if("referrer", event.page_referrer());
        page.text_if("title", event.page_title());
    });
    write_headers(line, event.headers());
    if let Some(version) = event.schema_version() {
        line.number("schemaVersion", u64::from(version));
    }
    write_flags(line, event.flags());
}

/// As an array of names and values: a name may come twice.
fn write_headers<'h>(line: &mut Line<'_>, headers: impl Iterator<Item = (&'h str, &'h str)>) {
    let mut headers = headers.peekable();
    if headers.peek().is_none() {
        return;
    }
    line.key("headers");
    line.array(headers, |out, (name, value)| {
        out.extend_from_slice(b"{\"name\":");
        write_text(out, name);
        out.extend_from_slice(b",\"value\":");
        write_text(out, value);
        out.push(b'}');
    });
}

fn write_flags(line: &mut Line<'_>, flags: EventFlags) {
    if !flags.is_empty() {
        line.key("flags");
        line.array(flags.names(), write_text);
    }
}

/// What enrichment found out.
fn write_enriched(line: &mut Line<'_>, enriched: &EnrichedParts<'_>) {
    line.text_if("resolvedUserId", enriched.resolved_user_id);
    line.object_if("session", enriched.session, write_session);
    line.object_if("device", enriched.device, write_device);
    line.object_if("geo", enriched.geo, write_geo);
    line.object_if("campaign", enriched.campaign, write_campaign);
    line.object_if("pageParts", enriched.page, write_page_parts);
    line.object_if("profile", enriched.profile, write_profile);
    line.text_if("enrichedBy", enriched.enriched_by);
    line.json_if("enrichFailures", enriched.failures);
    line.number_if("stateOffset", enriched.state_offset.map(|offset| offset.0));
    if let Some(place) = enriched.made_from {
        line.number("rawPartition", u64::from(place.partition));
        line.number("rawOffset", place.offset.0);
    }
}

fn write_session(line: &mut Line<'_>, session: &SessionParts<'_>) {
    line.text_if("id", session.id);
    line.number("number", u64::from(session.number));
    line.time("started", session.started);
    line.bool("firstEvent", session.first_event);
    line.text_if("landingPage", session.landing_page);
    if let Some(time) = session.previous_ended {
        line.time("previousEnded", time);
    }
}

fn write_device(line: &mut Line<'_>, device: &DeviceParts<'_>) {
    line.text_if("browser", device.browser);
    line.text_if("browserVersion", device.browser_version);
    line.text_if("os", device.os);
    line.text_if("osVersion", device.os_version);
    line.text_if("brand", device.brand);
    line.text_if("model", device.model);
    line.text_if("class", device.class);
    line.bool("bot", device.bot);
}

fn write_geo(line: &mut Line<'_>, geo: &GeoParts<'_>) {
    let known = |number: u32| Some(u64::from(number)).filter(|number| *number != 0);
    line.text_if("country", geo.country);
    line.text_if("region", geo.region);
    line.text_if("city", geo.city);
    line.text_if("postalCode", geo.postal_code);
    line.text_if("timeZone", geo.time_zone);
    line.double_if("latitude", geo.latitude);
    line.double_if("longitude", geo.longitude);
    line.number_if("accuracyKm", known(geo.accuracy_km));
    line.number_if("asNumber", known(geo.as_number));
    line.text_if("asName", geo.as_name);
    line.text("origin", geo.origin.as_str());
}

fn write_campaign(line: &mut Line<'_>, campaign: &CampaignParts<'_>) {
    line.text_if("source", campaign.source);
    line.text_if("medium", campaign.medium);
    line.text_if("name", campaign.name);
    line.text_if("term", campaign.term);
    line.text_if("content", campaign.content);
    line.text_if("id", campaign.id);
    line.text_if("clickId", campaign.click_id);
    line.text_if("clickIdKind", campaign.click_id_kind);
    line.text_if("referrerHost", campaign.referrer_host);
    line.text_if("referrerKind", campaign.referrer_kind);
    line.text_if("referrerName", campaign.referrer_name);
}

fn write_page_parts(line: &mut Line<'_>, page: &PageParts<'_>) {
    line.text_if("scheme", page.scheme);
    line.text_if("host", page.host);
    line.text_if("path", page.path);
    line.text_if("query", page.query);
    line.text_if("fragment", page.fragment);
}

fn write_profile(line: &mut Line<'_>, profile: &ProfileParts<'_>) {
    line.number("version", profile.version.0);
    line.json_if("traits", profile.traits);
    line.json_if("groupTraits", profile.group_traits);
}

fn write_rejected(line: &mut Line<'_>, at: &LinePlace<'_>, record: Record<'_>) {
    let rejected = RejectedView::of(record).expect("the record is of kind rejected");
    line.text_if("messageId", rejected.message_id());
    line.text_if("type", rejected.kind());
    line.text_if("event", rejected.name());
    line.text_if("source", rejected.source());
    line.time("receivedAt", rejected.received_time());
    line.time("appendedAt", at.appended_at);
    line.text_if("clientAddress", rejected.client_address());
    line.text_if("peerAddress", rejected.peer_address());
    line.text("code", rejected.code());
    line.text_if("pointer", rejected.pointer());
    line.text("message", rejected.message());
    if let Some(body) = rejected.body() {
        line.bytes("body", "body_base64", body);
    }
    line.number("bodyLength", rejected.full_length());
    // As text: JSON's readers make a double of a number, which holds 53 bits.
    line.text("bodyHash", &format!("{:016x}", rejected.full_hash()));
    line.text_if("stage", rejected.stage());
    line.text_if("readAs", rejected.read_as());
    line.text_if("userAgent", rejected.user_agent());
    write_headers(line, rejected.headers());
    // As text: nobody has checked that a foreign record holds JSON there.
    line.text_if("beside", rejected.beside());
}

fn write_key_value(line: &mut Line<'_>, at: &LinePlace<'_>, record: Record<'_>) {
    line.time("appendedAt", at.appended_at);
    let Some(pair) = record.key_value() else {
        line.bytes("value", "value_base64", record.bytes());
        return;
    };
    line.bytes("key", "key_base64", pair.key);
    match pair.value {
        Some(value) => line.bytes("value", "value_base64", value),
        None => line.json_if("deleted", Some("true")),
    }
}

/// An object in the making. It begins with the record's place, so that every field written later
/// follows another.
struct Line<'o> {
    out: &'o mut Vec<u8>,
}

impl<'o> Line<'o> {
    fn begin(out: &'o mut Vec<u8>, at: &LinePlace<'_>) -> Self {
        out.extend_from_slice(b"{\"topic\":");
        write_text(out, at.topic);
        let mut line = Self { out };
        line.number("partition", u64::from(at.partition));
        line.number("offset", at.offset.0);
        line
    }

    fn end(self) {
        self.out.extend_from_slice(b"}\n");
    }

    fn key(&mut self, key: &str) {
        self.out.extend_from_slice(b",\"");
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn number(&mut self, key: &str, number: u64) {
        self.key(key);
        write_digits(self.out, number, 1);
    }

    fn number_if(&mut self, key: &str, number: Option<u64>) {
        if let Some(number) = number {
            self.number(key, number);
        }
    }

    /// A double with as many digits as it takes to read it back; JSON has none for what is not
    /// finite.
    fn double_if(&mut self, key: &str, number: Option<f64>) {
        if let Some(number) = number.filter(|number| number.is_finite()) {
            self.key(key);
            // Debug, unlike Display, gives extreme numbers an exponent instead of 300 digits.
            write!(self.out, "{number:?}").expect("a vector takes all");
        }
    }

    fn bool(&mut self, key: &str, value: bool) {
        self.key(key);
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
    }

    fn text(&mut self, key: &str, text: &str) {
        self.key(key);
        write_text(self.out, text);
    }

    fn text_if(&mut self, key: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(key, text);
        }
    }

    fn json_if(&mut self, key: &str, json: Option<&str>) {
        if let Some(json) = json {
            self.key(key);
            write_json(self.out, json);
        }
    }

    fn time(&mut self, key: &str, time: TimeMicros) {
        self.key(key);
        self.out.push(b'"');
        write_time(self.out, time);
        self.out.push(b'"');
    }

    /// Bytes as text, or under another key as base64 where they are no UTF-8.
    fn bytes(&mut self, key: &str, key_base64: &str, bytes: &[u8]) {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.text(key, text),
            Err(_) => {
                self.key(key_base64);
                write_base64(self.out, bytes);
            }
        }
    }

    fn array<T>(&mut self, items: impl Iterator<Item = T>, write: impl Fn(&mut Vec<u8>, T)) {
        self.out.push(b'[');
        for (index, item) in items.enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            write(self.out, item);
        }
        self.out.push(b']');
    }

    /// An object of the fields that `write` writes; nothing where it writes none.
    fn object(&mut self, key: &str, write: impl FnOnce(&mut Self)) {
        let before = self.out.len();
        self.key(key);
        let start = self.out.len();
        write(self);
        if self.out.len() == start {
            self.out.truncate(before);
        } else {
            // Every field comes after a comma; the first one's makes room for the brace.
            self.out[start] = b'{';
            self.out.push(b'}');
        }
    }

    fn object_if<T>(&mut self, key: &str, parts: Option<T>, write: fn(&mut Self, &T)) {
        if let Some(parts) = parts {
            self.object(key, |line| write(line, &parts));
        }
    }
}

/// A JSON text as sent, but on one line. Strings hold no bare line break, so that every one found
/// is white space between tokens.
fn write_json(out: &mut Vec<u8>, json: &str) {
    let start = out.len();
    out.extend_from_slice(json.as_bytes());
    for byte in &mut out[start..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
}

/// A text as a JSON string.
fn write_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(plain) = rest.iter().position(|byte| needs_escape(*byte)) {
        out.extend_from_slice(&rest[..plain]);
        write_escape(out, rest[plain]);
        rest = &rest[plain + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

const fn needs_escape(byte: u8) -> bool {
    matches!(byte, 0..0x20 | b'"' | b'\\' | 0x7f)
}

fn write_escape(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&digits);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).expect("there is room for it");
    assert!(start + written == out.len(), "padded base64 takes four bytes for three");
    out.push(b'"');
}

/// A number in decimal, with zeros before it up to `width` digits.
fn write_digits(out: &mut Vec<u8>, number: u64, width: usize) {
    /// The digits of `u64::MAX`.
    const DIGITS_MAX: usize = 20;
    let mut digits = [b'0'; DIGITS_MAX];
    let mut first = DIGITS_MAX;
    let mut rest = number;
    while rest > 0 {
        first -= 1;
        digits[first] += (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&digits[first.min(DIGITS_MAX - width)..]);
}

fn write_time(out: &mut Vec<u8>, time: TimeMicros) {
    const MICROS_A_SECOND: i64 = 1_000_000;
    const SECONDS_A_DAY: i64 = 86_400;
    let seconds = time.0.div_euclid(MICROS_A_SECOND);
    let micros = time.0.rem_euclid(MICROS_A_SECOND);
    let second = seconds.rem_euclid(SECONDS_A_DAY);
    let date = Date::of_day(seconds.div_euclid(SECONDS_A_DAY));
    let mut part = |before: Option<u8>, number: i64, width: usize| {
        out.extend(before);
        write_digits(out, number.unsigned_abs(), width);
    };
    match date.year {
        0..=9999 => part(None, date.year, 4),
        10_000.. => part(Some(b'+'), date.year, 6),
        _ => part(Some(b'-'), date.year, 6),
    }
    part(Some(b'-'), date.month, 2);
    part(Some(b'-'), date.day, 2);
    part(Some(b'T'), second / 3600, 2);
    part(Some(b':'), second / 60 % 60, 2);
    part(Some(b':'), second % 60, 2);
    part(Some(b'.'), micros, 6);
    out.push(b'Z');
}

/// A day of the Gregorian calendar, also before there was one.
struct Date {
    year: i64,
    month: i64,
    day: i64,
}

impl Date {
    /// The date `day` days after 1970-01-01.
    ///
    /// Counts in years that begin with March: a leap day is then the last of its year, and the
    /// lengths of the months repeat, 153 days for five of them.
    fn of_day(day: i64) -> Self {
        /// From 0000-03-01 to 1970-01-01.
        const DAYS_TO_1970: i64 = 719_468;
        /// Days in 400 years, after which the calendar repeats.
        const DAYS_IN_ERA: i64 = 146_097;
        let day = day + DAYS_TO_1970;
        let era = day.div_euclid(DAYS_IN_ERA);
        let day_of_era = day.rem_euclid(DAYS_IN_ERA);
        // Leap days before this one: one in 4 years, none in 100, one in 400.
        let leap_days = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / 146_096;
        let year_of_era = (day_of_era - leap_days) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        Self {
            year: era * 400 + year_of_era + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
        }
    }
}
