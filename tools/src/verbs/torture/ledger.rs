//! What was acked, and what was found of it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use serde::Deserialize;
use tracklog_server::replay::Query;
use tracklog_server::{offline, verify};

use crate::failure::Failure;
use crate::reading::{Piece, Source};

/// Where an event lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Place {
    pub(super) partition: u32,
    pub(super) offset: u64,
}

/// What clients were told of their events, which are numbers here.
#[derive(Default)]
pub(super) struct Ledger(Mutex<Told>);

#[derive(Default)]
struct Told {
    sent: u64,
    refused: u64,
    /// With the place, where the answer said one.
    acked: HashMap<u64, Option<Place>>,
    /// An answer that says less than it must.
    strange: u64,
}

impl Ledger {
    pub(super) fn message_id(id: u64) -> String {
        format!("torture-{id}")
    }

    /// Numbers for events that are about to be sent.
    pub(super) fn new_ids(&self, count: u64) -> Range<u64> {
        let mut told = self.lock();
        let first = told.sent;
        told.sent += count;
        first..told.sent
    }

    /// An answer said that they are stored. Where it `tells` places each must have one.
    pub(super) fn acked(&self, ids: Range<u64>, places: &[Option<Place>], tells: bool) {
        let mut told = self.lock();
        for (index, id) in ids.enumerate() {
            let place = places.get(index).copied().flatten();
            told.strange += u64::from(tells && place.is_none());
            told.acked.insert(id, place);
        }
    }

    /// An answer said that they are not stored.
    pub(super) fn refused(&self, count: u64) {
        self.lock().refused += count;
    }

    /// How many were acked.
    pub(super) fn len(&self) -> usize {
        self.lock().acked.len()
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

/// What a look at the whole log found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Checked {
    pub(super) acked: u64,
    /// Sent, and neither acked nor refused: they may be there or not.
    pub(super) unanswered: u64,
    /// Events in the log, acked or not.
    pub(super) found: u64,
    pub(super) lost: u64,
    pub(super) doubled: u64,
    /// Not where their ack said, or their ack did not say where.
    pub(super) misplaced: u64,
    /// Offsets between the first and the last that are not there.
    pub(super) gaps: u64,
    /// What `verify` and the reading complain of.
    pub(super) complaints: Vec<String>,
}

/// A line of a replay, as far as it matters here.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(flatten)]
    place: Place,
    #[serde(rename = "messageId")]
    message_id: &'a str,
}

/// Reads the log in the folder `node`, which nobody holds, and looks for all that was acked.
pub(super) async fn look_for(ledger: &Ledger, node: &Path) -> Result<Checked, Failure> {
    let mut found = Found::default();
    let log = offline::open(node, &mut |_| {})?;
    let mut take = |piece: Piece<'_>| {
        found.take(piece);
        Ok(())
    };
    Source::Folder(log).read("raw", Query::default(), &mut take).await?;
    let told = ledger.lock();
    let mut checked = found.against(&told);
    drop(told);
    let mut clean = false;
    verify::folder(node, &mut |line| match line {
        verify::VerifyLine::Summary { clean: is, .. } => clean = is,
        verify::VerifyLine::Problem { file, what, .. } => {
            checked.complaints.push(format!("{file}: {what}"));
        }
        _ => {}
    })
    .map_err(|error| Failure::of(node.display(), error))?;
    if !clean && checked.complaints.is_empty() {
        checked.complaints.push("verify is not clean".to_owned());
    }
    Ok(checked)
}

/// What a replay gave.
#[derive(Default)]
struct Found {
    places: HashMap<u64, Place>,
    next: HashMap<u32, u64>,
    events: u64,
    doubled: u64,
    gaps: u64,
    complaints: Vec<String>,
}

impl Found {
    fn take(&mut self, piece: Piece<'_>) {
        match piece {
            Piece::Lines(lines, _) => {
                lines.split(|byte| *byte == b'\n').filter(|it| !it.is_empty()).for_each(|line| {
                    self.line(line);
                });
            }
            Piece::Notice(what) | Piece::Damage(what) => self.complaints.push(what),
            Piece::Records(_) | Piece::Pause => {}
        }
    }

    fn line(&mut self, line: &[u8]) {
        let parsed: Option<Line<'_>> = serde_json::from_slice(line).ok();
        let id = |line: &Line<'_>| line.message_id.strip_prefix("torture-")?.parse().ok();
        let Some((line, id)) = parsed.and_then(|line| id(&line).map(|id| (line, id))) else {
            self.complaints.push(format!("no line of ours: {}", String::from_utf8_lossy(line)));
            return;
        };
        self.events += 1;
        let next = self.next.entry(line.place.partition).or_default();
        self.gaps += line.place.offset.abs_diff(*next);
        *next = line.place.offset + 1;
        match self.places.entry(id) {
            Entry::Vacant(entry) => drop(entry.insert(line.place)),
            Entry::Occupied(_) => self.doubled += 1,
        }
    }

    fn against(self, told: &Told) -> Checked {
        let (mut lost, mut misplaced) = (0, told.strange);
        for (id, place) in &told.acked {
            match self.places.get(id) {
                None => lost += 1,
                Some(is) => misplaced += u64::from(place.is_some_and(|said| said != *is)),
            }
        }
        let acked = told.acked.len() as u64;
        Checked {
            acked,
            unanswered: told.sent - told.refused - acked,
            found: self.events,
            lost,
            doubled: self.doubled,
            misplaced,
            gaps: self.gaps,
            complaints: self.complaints,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(partition: u32, offset: u64, id: u64) -> String {
        format!(
            "{{\"topic\":\"raw\",\"partition\":{partition},\"offset\":{offset},\
             \"messageId\":\"torture-{id}\",\"properties\":{{\"messageId\":\"x\"}}}}\n"
        )
    }

    fn checked(ledger: &Ledger, lines: &[String]) -> Checked {
        let mut found = Found::default();
        found.take(Piece::Lines(lines.concat().as_bytes(), lines.len() as u64));
        found.against(&ledger.lock())
    }

    #[test]
    fn what_is_lost_doubled_misplaced_or_missing_is_told() {
        let ledger = Ledger::default();
        let place = |offset| Some(Place { partition: 0, offset });
        ledger.acked(ledger.new_ids(4), &[place(0), place(1), place(2), place(3)], true);
        ledger.refused(ledger.new_ids(2).count() as u64);
        let unanswered = ledger.new_ids(1);
        let good = [line(0, 0, 0), line(0, 1, 1), line(0, 2, 2), line(0, 3, 3)];
        let all_well = Checked { acked: 4, unanswered: 1, found: 4, ..Checked::default() };
        assert_eq!(checked(&ledger, &good), all_well);
        let with_unanswered = [&good[..], &[line(1, 0, unanswered.start)]].concat();
        assert_eq!(checked(&ledger, &with_unanswered), Checked { found: 5, ..all_well.clone() });
        let lost = Checked { found: 3, lost: 1, ..all_well.clone() };
        assert_eq!(checked(&ledger, &good[..3]), lost);
        let doubled = [&good[..], &[line(0, 4, 0)]].concat();
        assert_eq!(
            checked(&ledger, &doubled),
            Checked { found: 5, doubled: 1, ..all_well.clone() }
        );
        let swapped = [line(0, 0, 1), line(0, 1, 0), good[2].clone(), good[3].clone()];
        assert_eq!(checked(&ledger, &swapped), Checked { misplaced: 2, ..all_well.clone() });
        let gap = [&good[..], &[line(1, 2, unanswered.start)]].concat();
        assert_eq!(checked(&ledger, &gap), Checked { found: 5, gaps: 2, ..all_well });
    }

    #[test]
    fn an_answer_that_does_not_say_where_is_told() {
        let ledger = Ledger::default();
        ledger.acked(ledger.new_ids(1), &[], true);
        assert_eq!(checked(&ledger, &[line(0, 0, 0)]).misplaced, 1);
    }
}
