//! Where the columns of a file go in the events that its rows make.
//!
//! A column is the field of events that it is called (`userId`, `timestamp`, `properties.price`,
//! `context.page.url`); any other is a property of its own name. The caller may say otherwise.

use std::collections::BTreeMap;

/// The fields of events that are objects: columns below them are told by a point.
const OBJECTS: [&str; 4] = ["properties", "traits", "context", "integrations"];

/// The other fields that a column may be.
const FIELDS: [&str; 14] = [
    "type",
    "messageId",
    "event",
    "name",
    "anonymousId",
    "userId",
    "previousId",
    "groupId",
    "sessionId",
    "category",
    "channel",
    "timestamp",
    "originalTimestamp",
    "sentAt",
];

/// Whether the field as a whole is an object.
pub(super) fn is_object(field: &str) -> bool {
    OBJECTS.contains(&field)
}

/// Writes the value of a column as JSON, or tells why it can't be.
pub(super) type WriteValue<'w> = dyn FnMut(usize, &mut Vec<u8>) -> Result<(), String> + 'w;

/// A column's place in an event.
#[derive(Clone, Debug)]
enum Node {
    Value(usize),
    Object(Members),
}

/// The members of an object, in the order of their first columns.
#[derive(Clone, Debug, Default)]
pub(super) struct Members(Vec<(String, Node)>);

impl Members {
    /// Writes the object. Columns of which `says` says no, and objects without any, are left out.
    pub(super) fn write(
        &self,
        out: &mut Vec<u8>,
        says: &dyn Fn(usize) -> bool,
        write_value: &mut WriteValue<'_>,
    ) -> Result<(), String> {
        out.push(b'{');
        let mut is_first = true;
        for (name, node) in self.0.iter().filter(|(_, node)| node.says(says)) {
            if !std::mem::take(&mut is_first) {
                out.push(b',');
            }
            push_text(out, name);
            out.push(b':');
            match node {
                Node::Object(members) => members.write(out, says, write_value)?,
                Node::Value(column) => write_value(*column, out)?,
            }
        }
        out.push(b'}');
        Ok(())
    }

    /// `None` where something else is at that place.
    fn insert(&mut self, path: &[&str], column: usize) -> Option<()> {
        let (first, rest) = path.split_first()?;
        let at = self.0.iter().position(|(name, _)| name == first);
        match (at.map(|at| &mut self.0[at].1), rest) {
            (None, []) => self.0.push(((*first).to_owned(), Node::Value(column))),
            (None, rest) => {
                let mut inner = Self::default();
                inner.insert(rest, column)?;
                self.0.push(((*first).to_owned(), Node::Object(inner)));
            }
            (Some(Node::Object(inner)), rest) => inner.insert(rest, column)?,
            (Some(Node::Value(_)), _) => return None,
        }
        Some(())
    }
}

impl Node {
    fn says(&self, says: &dyn Fn(usize) -> bool) -> bool {
        match self {
            Self::Value(column) => says(*column),
            Self::Object(members) => members.0.iter().any(|(_, node)| node.says(says)),
        }
    }
}

/// The field that each column is; `None`: it is left out. `others` are those that are not what they
/// are called.
pub(super) fn fields_of(
    names: &[String],
    others: &BTreeMap<String, Option<String>>,
) -> Result<Vec<Option<String>>, String> {
    if let Some(unknown) = others.keys().find(|name| !names.contains(name)) {
        return Err(no_column(unknown, names));
    }
    let field = |name: &String| others.get(name).cloned().unwrap_or_else(|| Some(name.clone()));
    Ok(names.iter().map(field).collect())
}

/// The event that these columns make.
pub(super) fn event_of(names: &[String], fields: &[Option<String>]) -> Result<Members, String> {
    let mut event = Members::default();
    for (column, (name, field)) in names.iter().zip(fields).enumerate() {
        if name.is_empty() {
            return Err(format!("column {} has no name", column + 1));
        }
        if names[..column].contains(name) {
            return Err(format!("two columns are called {name:?}"));
        }
        let Some(field) = field else { continue };
        event
            .insert(&path_of(field), column)
            .ok_or_else(|| format!("column {name:?} is at {field}, where another is already"))?;
    }
    Ok(event)
}

pub(super) fn no_column(name: &str, names: &[String]) -> String {
    format!("there is no column {name:?}: its columns are {}", names.join(", "))
}

fn path_of(field: &str) -> Vec<&str> {
    let first = field.split('.').next().unwrap_or(field);
    if OBJECTS.contains(&first) {
        field.split('.').collect()
    } else if FIELDS.contains(&field) {
        vec![field]
    } else {
        vec!["properties", field]
    }
}

/// `text` as JSON.
pub(super) fn push_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a text becomes JSON in memory");
}
