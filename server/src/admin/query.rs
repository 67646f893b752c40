//! The parameters of `…/events`, and of `/v1/live`.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use percent_encoding::percent_decode_str;
use tracklog_pipeline::realtime::{View, WindowId};
use tracklog_protocol::TimeMicros;

use crate::backfill::{Stretch, Zoneless};
use crate::bound::{Bound, parse_time};
use crate::find::{NoCursor, Search, Sought};
use crate::quarantine::{self, NoPlace, Place};
use crate::replay::{Filter, Query};

/// A query's parameters, decoded. Each may be there once.
#[derive(Debug)]
pub(super) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    pub(super) fn of(query: &str) -> Result<Self, String> {
        let mut parameters = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(name, value)?;
            // As the flags are called, or as JSON and SQL would have it.
            if parameters.insert(name.replace('-', "_"), value).is_some() {
                return Err(format!("the parameter {name} is there twice"));
            }
        }
        Ok(Self(parameters))
    }

    /// Whether `progress` is asked for, and nothing else.
    pub(super) fn progress(mut self) -> Result<bool, String> {
        let progress = self.flag("progress")?;
        self.end().map(|()| progress)
    }

    /// What was not taken is unknown.
    fn end(self) -> Result<(), String> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(unknown) => Err(format!("there is no parameter {unknown:?} here")),
        }
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    fn number<N: std::str::FromStr>(&mut self, name: &str) -> Result<Option<N>, String> {
        let read = |text: String| {
            text.parse().map_err(|_| format!("{name}: {text:?} is no number that fits"))
        };
        self.take(name).map(read).transpose()
    }

    /// How much a piece holds of what is told in pieces, of which an empty one would lead nowhere.
    fn piece(&mut self) -> Result<Option<usize>, String> {
        Ok(self.number::<NonZeroUsize>("limit")?.map(NonZeroUsize::get))
    }

    fn bound(&mut self, name: &str, now: TimeMicros) -> Result<Option<Bound>, String> {
        let read =
            |text: String| Bound::parse(&text, now).map_err(|error| format!("{name}: {error}"));
        self.take(name).map(read).transpose()
    }

    fn time(&mut self, name: &str, now: TimeMicros) -> Result<Option<TimeMicros>, String> {
        let read =
            |text: String| parse_time(&text, now).map_err(|error| format!("{name}: {error}"));
        self.take(name).map(read).transpose()
    }

    fn flag(&mut self, name: &str) -> Result<bool, String> {
        match self.take(name).as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(other) => Err(format!("{name}: {other:?} is neither true nor false")),
        }
    }
}

/// A `+` stays in places and times, where it begins a zone; elsewhere it is a space.
fn decoded(name: &str, value: &str) -> Result<String, String> {
    let is_place = ["from", "to", "scan"].iter().any(|start| name.starts_with(start));
    let spaced = if is_place { value.to_owned() } else { value.replace('+', " ") };
    match percent_decode_str(&spaced).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(format!("the parameter {name} is no UTF-8")),
    }
}

/// Which rows of a file come with the request.
pub(super) fn stretch(mut parameters: Parameters) -> Result<Stretch, String> {
    let row = |number: Option<u64>, name: &str| {
        number.filter(|row| *row > 0).ok_or_else(|| format!("{name} is the number of a row"))
    };
    let stretch = Stretch {
        from: row(parameters.number("from")?, "from")?,
        to: row(parameters.number("to")?, "to")?,
        is_last: parameters.flag("last")?,
        reading: parameters.take("reading").unwrap_or_default(),
        zoneless: match parameters.take("zoneless").as_deref() {
            None => Zoneless::Refused,
            Some("utc") => Zoneless::Utc,
            Some(other) => return Err(format!("zoneless: {other:?} is not utc")),
        },
        file: parameters.take("file").unwrap_or_default(),
    };
    parameters.end().map(|()| stretch)
}

/// Which rejected events are to be listed, where to go on, and how many at once.
pub(super) fn listing(
    mut parameters: Parameters,
    now: TimeMicros,
) -> Result<(quarantine::Filter, Option<Place>, Option<usize>), String> {
    let limit = parameters.piece()?;
    let (filter, after) = retrying(parameters, now)?;
    Ok((filter, after, limit))
}

/// Which rejected events are to be tried again, and where to go on.
pub(super) fn retrying(
    mut parameters: Parameters,
    now: TimeMicros,
) -> Result<(quarantine::Filter, Option<Place>), String> {
    let filter = quarantine::Filter {
        code: parameters.take("code"),
        event: parameters.take("event"),
        source: parameters.take("source"),
        from: parameters.bound("from", now)?,
        to: parameters.bound("to", now)?,
    };
    let after = parameters.take("after").map(|text| text.parse());
    let after = after.transpose().map_err(|error: NoPlace| format!("after: {error}"))?;
    parameters.end().map(|()| (filter, after))
}

/// Which events are looked for, and where.
pub(super) fn search(mut parameters: Parameters, now: TimeMicros) -> Result<Search, String> {
    let sought = match (parameters.take("id"), parameters.take("user")) {
        (Some(id), None) => Sought::Id(id),
        (None, Some(user)) => Sought::User(user),
        _ => return Err("either id or user says what is looked for".to_owned()),
    };
    let after = parameters.take("after").map(|text| text.parse());
    let search = Search {
        sought,
        from: parameters.bound("from", now)?,
        scan_from: parameters.bound("scan_from", now)?,
        to: parameters.bound("to", now)?,
        after: after.transpose().map_err(|error: NoCursor| format!("after: {error}"))?,
        limit: parameters.piece()?,
    };
    parameters.end().map(|()| search)
}

/// What is asked for.
pub(super) fn reading(mut parameters: Parameters, now: TimeMicros) -> Result<Query, String> {
    let query = Query {
        partition: parameters.number("partition")?,
        from: parameters.bound("from", now)?,
        to: parameters.bound("to", now)?,
        from_event_time: parameters.time("from_event_time", now)?,
        to_event_time: parameters.time("to_event_time", now)?,
        filter: Filter {
            event: parameters.take("event"),
            source: parameters.take("source"),
            user: parameters.take("user"),
        },
        last: parameters.number("last")?,
        limit: parameters.number("limit")?,
        follow: parameters.flag("follow")?,
    };
    parameters.end().map(|()| query)
}

/// What is to be watched, and whether only once. `after` is what the client saw last.
pub(super) fn viewing(
    mut parameters: Parameters,
    after: Option<WindowId>,
) -> Result<(View, bool), String> {
    let span = parameters.take("window").map(|text| text.parse());
    let view = View {
        span: span.transpose().map_err(|error: String| format!("window: {error}"))?,
        name: parameters.take("name"),
        last: parameters.number("last")?.unwrap_or(0),
        after,
    };
    let once = parameters.flag("once")?;
    parameters.end().map(|()| (view, once))
}

#[cfg(test)]
mod tests {
    use tracklog_protocol::Offset;

    use super::*;

    fn read(query: &str) -> Result<Query, String> {
        reading(Parameters::of(query)?, TimeMicros(0))
    }

    #[test]
    fn all_parameters_are_read() {
        let query = read(
            "partition=3&from=17&to=2026-01-02T03:04:05+08:00&limit=9&last=12&event=Order+%28new%29&user=7",
        );
        let query = query.unwrap();
        assert_eq!((query.partition, query.limit, query.last), (Some(3), Some(9), Some(12)));
        assert_eq!(query.from, Some(Bound::Offset(Offset(17))));
        assert_eq!(query.to, Some(Bound::Time(TimeMicros(1_767_294_245_000_000))));
        assert_eq!(query.filter.event.as_deref(), Some("Order (new)"));
        assert!(!query.follow && read("follow").unwrap().follow);
    }

    #[test]
    fn a_stretch_of_rows_has_two_ends() {
        let read = |query: &str| stretch(Parameters::of(query)?);
        let wanted = Stretch {
            from: 1,
            to: 300,
            is_last: true,
            reading: "csv a,b".to_owned(),
            zoneless: Zoneless::Utc,
            file: "old.csv".to_owned(),
        };
        let query = "from=1&to=300&last&reading=csv+a%2Cb&zoneless=utc&file=old.csv";
        assert_eq!(read(query), Ok(wanted));
        for query in ["from=1", "from=0&to=2", "from=1&to=2&zoneless=cet", "from=1&to=2&at=3"] {
            assert!(read(query).is_err(), "{query}");
        }
    }

    #[test]
    fn a_piece_holds_something() {
        let limit = |query| listing(Parameters::of(query)?, TimeMicros(0)).map(|it| it.2);
        assert_eq!((limit("limit=3"), limit("")), (Ok(Some(3)), Ok(None)));
        assert!(limit("limit=0").is_err());
        let limit = |query| search(Parameters::of(query)?, TimeMicros(0)).map(|it| it.limit);
        assert_eq!((limit("id=m&limit=3"), limit("user=u")), (Ok(Some(3)), Ok(None)));
        assert!(limit("id=m&limit=0").is_err());
    }

    #[test]
    fn a_search_begins_at_one_place_and_scans_from_another() {
        let read = |query| search(Parameters::of(query)?, TimeMicros(0));
        let found = read("id=m&from=7&scan-from=2026-01-02T03:04:05+08:00").unwrap();
        assert_eq!(found.from, Some(Bound::Offset(Offset(7))));
        assert_eq!(found.scan_from, Some(Bound::Time(TimeMicros(1_767_294_245_000_000))));
        assert_eq!(read("user=u").unwrap().scan_from, None);
        assert!(read("id=m&scan_from=soon").is_err() && read("id=m&user=u").is_err());
    }

    #[test]
    fn what_is_watched_is_read() {
        let after: Option<WindowId> = "7".parse().ok();
        let viewing = |query: &str| viewing(Parameters::of(query)?, after);
        let (view, once) = viewing("name=Order+Completed&window=1m&last=5&once").unwrap();
        assert_eq!((view.name.as_deref(), view.last, once), (Some("Order Completed"), 5, true));
        assert_eq!((view.span.unwrap().as_str(), view.after), ("1m", after));
        let (all, follows) = viewing("").unwrap();
        assert_eq!((all, follows), (View { after, ..View::default() }, false));
        for query in ["window=5m", "last=-1", "once=maybe", "names=a", "last=1&last=2"] {
            assert!(viewing(query).is_err(), "{query}");
        }
    }

    #[test]
    fn what_is_unknown_twice_or_wrong_is_refused() {
        for query in [
            "form=3",
            "from=1&from=2",
            "partition=-1",
            "limit=many",
            "follow=maybe",
            "from=soon",
            "from_event_time=5",
            "user=%ff",
        ] {
            assert!(read(query).is_err(), "{query}");
        }
    }
}
