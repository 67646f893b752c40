//! `keep` and `drop`: an event with fewer fields.
//!
//! - `keep` names what stays; what every event has (its id, type, name, source, times, and where it
//!   was made from) stays in any case. `drop` then takes out what it names.
//! - Naming an object names all below it. Below the client's objects, what stays is copied as sent,
//!   token by token.
//! - Elements of an array are named by their numbers, from 0, as they were sent; those that stay
//!   close up.
//!
//! Sans-io.

use std::collections::BTreeMap;

use tracklog_protocol::Record;
use tracklog_protocol::event::{EventBuilder, EventParts, EventView, Fields, Property};

use super::field::{Clear, Field, KNOWN, Root, tokens};

/// What of an event stays.
#[derive(Clone, Debug)]
pub(super) struct Projection {
    clears: Vec<Clear>,
    /// For each of the client's objects.
    roots: Vec<(Root, Selection)>,
}

/// What of one object stays.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Selection {
    /// `None`: all.
    keep: Option<Names>,
    drop: Names,
}

/// Names in an object, and names below them; none below: all there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Names(BTreeMap<Box<str>, Self>);

impl Projection {
    /// Whether `field` is one that an event can do without.
    pub(super) fn can_drop(field: &Field) -> bool {
        field.can_be_dropped()
    }

    /// `keep`: only these stay, if it is said. `drop`: these go.
    pub(super) fn new(keep: Option<Vec<Field>>, drop: Vec<Field>) -> Self {
        let paths = |fields: &[Field]| -> Vec<Vec<String>> {
            let names = |field: &Field| field.names().into_iter().map(str::to_owned).collect();
            fields.iter().map(names).collect()
        };
        let (keep, drop) = (keep.map(|it| paths(&it)), paths(&drop));
        let is_kept = |path: &[&str]| {
            let keeps = |keep: &Vec<Vec<String>>| {
                keep.iter().any(|it| begins(it, path) || covers(it, path))
            };
            keep.as_ref().is_none_or(keeps) && !drop.iter().any(|it| covers(it, path))
        };
        let gone = KNOWN.iter().filter(|known| !is_kept(known.path));
        let clears = gone.filter_map(|known| known.clear).collect();
        let selection = |root: Root| Selection {
            keep: keep.as_ref().and_then(|keep| Names::below(root, keep)),
            // All of it: then nothing in it is named.
            drop: Names::below(root, &drop).unwrap_or_default(),
        };
        let whole = |root: Root| drop.iter().any(|it| covers(it, root.path()));
        let nothing = Selection { keep: Some(Names::default()), drop: Names::default() };
        let of = |root| (root, if whole(root) { nothing.clone() } else { selection(root) });
        let roots = Root::ALL.into_iter().map(of);
        let all = Selection { keep: None, drop: Names::default() };
        Self { clears, roots: roots.filter(|(_, selection)| *selection != all).collect() }
    }

    /// `event` with what stays, built in `builder`.
    pub(super) fn apply<'b>(
        &self,
        event: &EventView<'_>,
        builder: &'b mut EventBuilder,
    ) -> Record<'b> {
        let headers: Vec<_> = event.headers().collect();
        let index: Vec<_> = event.property_index().collect();
        let is_whole = |root| !self.roots.iter().any(|(it, _)| *it == root);
        let texts: Vec<_> =
            self.roots.iter().map(|(root, it)| (*root, it.of(root.text(event)))).collect();
        let mut enriched = event.enriched();
        let mut parts = EventParts { headers: &headers, ..EventParts::of(event) };
        if is_whole(Root::Properties) {
            parts.property_index = &index;
        }
        for (root, text) in &texts {
            let text = text.as_deref();
            match root {
                Root::Properties => parts.properties = text,
                Root::Traits => parts.traits = text,
                Root::Context => parts.context = text,
                Root::Integrations => parts.integrations = text,
                Root::Extra => parts.extra = text,
                Root::ProfileTraits => {
                    if let Some(profile) = &mut enriched.profile {
                        profile.traits = text;
                    }
                }
                Root::ProfileGroupTraits => {
                    if let Some(profile) = &mut enriched.profile {
                        profile.group_traits = text;
                    }
                }
            }
        }
        for clear in &self.clears {
            clear(&mut parts, &mut enriched);
        }
        parts.enriched = Some(&enriched);
        builder.build(&parts)
    }
}

/// Whether `named` is `path` or an object above it.
fn covers<T: AsRef<str>>(named: &[T], path: &[&str]) -> bool {
    named.len() <= path.len() && named.iter().zip(path).all(|(one, other)| one.as_ref() == *other)
}

/// Whether `path` is an object above `named`.
fn begins<T: AsRef<str>>(named: &[T], path: &[&str]) -> bool {
    named.len() > path.len() && named.iter().zip(path).all(|(one, other)| one.as_ref() == *other)
}

impl Names {
    /// What `paths` name below `root`; `None` when one names all of it.
    fn below(root: Root, paths: &[Vec<String>]) -> Option<Self> {
        let mut names = Self::default();
        for path in paths {
            if covers(path, root.path()) {
                return None;
            }
            if begins(path, root.path()) {
                names.add(&path[root.path().len()..]);
            }
        }
        Some(names)
    }

    fn add(&mut self, path: &[String]) {
        let Some((first, below)) = path.split_first() else {
            // All below this name, whatever else is named there.
            self.0.clear();
            return;
        };
        let is_new = !self.0.contains_key(first.as_str());
        let names = self.0.entry(first.as_str().into()).or_default();
        // An empty one that was there means all.
        if is_new || !names.0.is_empty() {
            names.add(below);
        }
    }
}

impl Selection {
    /// What stays of the object `text`; nothing where it is empty then.
    fn of(&self, text: Option<&str>) -> Option<String> {
        let mut out = String::new();
        select(text?, self.keep.as_ref(), Some(&self.drop), &mut out);
        Some(out).filter(|it| it != "{}")
    }
}

/// Appends the object `text` with the members in `keep` (`None`: all) without those in `drop`.
fn select(text: &str, keep: Option<&Names>, drop: Option<&Names>, out: &mut String) {
    out.push('{');
    let empty = out.len();
    for span in Fields::of(text).map_while(Result::ok) {
        let (Some(name), Some(value)) = (span.name(text), span.value(text)) else { continue };
        let Some(part) = Part::of(&name, value, keep, drop) else { continue };
        if out.len() > empty {
            out.push(',');
        }
        let token = |at: u32, len: u32| &text[at as usize..][..len as usize];
        out.extend(["\"", token(span.name_at, span.name_len), "\":"]);
        part.write(value, token(span.value_at, span.value_len), out);
    }
    out.push('}');
}

/// The same of the array `text`, whose elements have their numbers for names.
fn select_elements(text: &str, keep: Option<&Names>, drop: Option<&Names>, out: &mut String) {
    out.push('[');
    let empty = out.len();
    for (number, token) in tokens(text).into_iter().enumerate() {
        let Some(value) = Property::of_token(token) else { continue };
        let Some(part) = Part::of(&number.to_string(), value, keep, drop) else { continue };
        if out.len() > empty {
            out.push(',');
        }
        part.write(value, token, out);
    }
    out.push(']');
}

/// What of a value stays that stays: these names below it alone, or all; without those.
struct Part<'n> {
    keep: Option<&'n Names>,
    drop: Option<&'n Names>,
}

impl<'n> Part<'n> {
    /// What of `value` stays, which is called `name`; `None`: it goes.
    fn of(
        name: &str,
        value: Property<'_>,
        keep: Option<&'n Names>,
        drop: Option<&'n Names>,
    ) -> Option<Self> {
        let kept = keep.map(|it| it.0.get(name));
        let drop = drop.and_then(|it| it.0.get(name));
        let below = kept.flatten().filter(|it| !it.0.is_empty());
        // Where nothing can be below it, nothing there can be meant.
        let has_names = matches!(value, Property::Object(_) | Property::Array(_));
        let lacks_below = below.is_some() && !has_names;
        let is_dropped = drop.is_some_and(|it| it.0.is_empty());
        let goes = matches!(kept, Some(None)) || lacks_below || is_dropped;
        (!goes).then_some(Self { keep: below, drop })
    }

    /// Appends it of `value`, whose text is `token`.
    fn write(&self, value: Property<'_>, token: &str, out: &mut String) {
        let is_whole = self.keep.is_none() && self.drop.is_none();
        match value {
            Property::Object(object) if !is_whole => select(object, self.keep, self.drop, out),
            Property::Array(array) if !is_whole => {
                select_elements(array, self.keep, self.drop, out);
            }
            _ => out.push_str(token),
        }
    }
}
