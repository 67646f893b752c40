//! Reading server-sent events: pieces of text become what the node told.

use serde::de::DeserializeOwned;
use tracklog_server::live::{LiveGap, LiveWindow};

use crate::failure::Failure;

/// What the node told.
#[derive(Debug, PartialEq)]
pub(super) enum Told {
    Window(LiveWindow),
    Gap(LiveGap),
}

/// Puts lines together that come in pieces, and events that have several lines.
#[derive(Default)]
pub(super) struct ToldSplitter {
    /// The start of a line whose end has not come.
    begun: Vec<u8>,
    event: String,
    data: String,
    id: String,
    /// The id of the last event that was whole: where a new connection goes on.
    last_id: Option<String>,
}

impl ToldSplitter {
    /// The id of the last event that had one.
    pub(super) fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// What has come of an event is of no use: its connection has ended.
    pub(super) fn cut(&mut self) {
        *self = Self { last_id: self.last_id.take(), ..Self::default() };
    }

    pub(super) fn push(
        &mut self,
        piece: &[u8],
        sink: &mut dyn FnMut(Told) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.begun);
                let line = String::from_utf8_lossy(&line);
                if let Some(told) = self.line(line.trim_end())? {
                    sink(told)?;
                }
            }
        }
        Ok(())
    }

    /// An empty line ends an event; comments and fields that mean nothing here are passed over.
    fn line(&mut self, line: &str) -> Result<Option<Told>, Failure> {
        if line.is_empty() {
            let (event, data) = (std::mem::take(&mut self.event), std::mem::take(&mut self.data));
            let id = std::mem::take(&mut self.id);
            if !id.is_empty() {
                self.last_id = Some(id);
            }
            return match &*event {
                "window" => read(&data).map(Told::Window).map(Some),
                "gap" => read(&data).map(Told::Gap).map(Some),
                _ => Ok(None),
            };
        }
        match line.split_once(": ") {
            Some(("event", name)) => name.clone_into(&mut self.event),
            Some(("data", data)) => self.data.push_str(data),
            Some(("id", id)) => id.clone_into(&mut self.id),
            _ => {}
        }
        Ok(None)
    }
}

fn read<T: DeserializeOwned>(data: &str) -> Result<T, Failure> {
    serde_json::from_str(data).map_err(|error| {
        Failure::of("the node sent figures that this program does not know", error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "retry: 1000\n\n: nothing new\n\nevent: gap\n\
        data: {\"window\":\"1s\",\"next\":\"2026-01-02T03:04:05Z\"}\n\nevent: window\nid: 5\n\
        data: {\"window\":\"1m\",\"begin\":\"2026-01-02T03:04:00Z\",\"complete\":true,\
        \"total\":{\"count\":1,\"rate\":0.5,\"late\":0},\"names\":[{\"name\":\"é\",\"count\":1,\
        \"rate\":0.5,\"late\":0,\"sums\":{\"properties.total\":{\"sum\":2.5,\"count\":1}}}]}\n\n\
        event: new\ndata: {}\n\n";

    #[test]
    fn events_are_put_together_wherever_they_are_cut() {
        for cut in 0..=TEXT.len() {
            let mut told = Vec::new();
            let mut splitter = ToldSplitter::default();
            for piece in [&TEXT.as_bytes()[..cut], &TEXT.as_bytes()[cut..]] {
                let mut sink = |it| {
                    told.push(it);
                    Ok(())
                };
                splitter.push(piece, &mut sink).unwrap();
            }
            let [Told::Gap(gap), Told::Window(window)] = &told[..] else { panic!("{told:?}") };
            assert_eq!(gap.next, "2026-01-02T03:04:05Z");
            assert_eq!(window.names[0].name.as_deref(), Some("é"));
            assert_eq!(window.names[0].sums["properties.total"].sum, 2.5);
            assert_eq!(splitter.last_id(), Some("5"));
        }
    }

    #[test]
    fn an_event_that_was_cut_off_leaves_nothing_and_has_not_been_seen() {
        let mut splitter = ToldSplitter::default();
        let mut told = 0;
        let mut sink = |_| {
            told += 1;
            Ok(())
        };
        splitter.push(b"event: window\nid: 7\ndata: {\"win", &mut sink).unwrap();
        splitter.cut();
        assert_eq!(splitter.last_id(), None);
        splitter.push(TEXT.as_bytes(), &mut sink).unwrap();
        splitter.push(b"event: window\nid: 7\n", &mut sink).unwrap();
        splitter.cut();
        assert_eq!((splitter.last_id(), told), (Some("5"), 2));
    }

    #[test]
    fn figures_of_another_kind_are_a_failure() {
        let text = b"event: window\ndata: {\"window\":\"5m\"}\n\n";
        assert!(ToldSplitter::default().push(text, &mut |_| Ok(())).is_err());
    }
}
