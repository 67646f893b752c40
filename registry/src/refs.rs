//! References of a schema, followed before it is compiled.
//!
//! Promises, of a document that [`check`] accepts:
//! - every reference lands in the document itself: a JSON pointer, an anchor, or the absolute
//!   `$id` of a schema inside it;
//! - no chain of references comes back to where it began without stepping into the instance, so
//!   that validation ends;
//! - the schemas applied to one and the same value, counted along all paths, are bounded, and so
//!   is their nesting: neither time nor stack can be blown up by schemas that name each other;
//! - `$schema`, where it stands inside, names a known draft, and no `format` is one that drafts
//!   define and the validator, as it is built here, would pass over in silence.
//!
//! How: a walk collects the schemas (keywords that hold schemas, in any draft) as nodes of a
//! graph, then reference targets that lie elsewhere. An edge is *in place* when it leads to a
//! schema for the same value. The in-place part must be free of cycles. Nothing here recurses.
//! Where drafts differ the walk takes every reading at once: it may refuse a strange document,
//! never accept a bad one.

use std::collections::{HashMap, HashSet};

use jsonschema::Draft;
use percent_encoding::percent_decode_str;
use serde_json::Value;

use crate::compile::draft_of;
use crate::error::SchemaError;

/// How much one value may be asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Schemas applied to one value, counted along all paths.
    pub(crate) applied_max: u64,
    /// Schemas nested in place, one inside of another.
    pub(crate) nested_max: u32,
}

/// Checks all references of `document`, which is of `draft` and whose nesting is bounded.
pub(crate) fn check(document: &Value, draft: Draft, bounds: Bounds) -> Result<(), SchemaError> {
    let mut graph =
        Graph { id_keyword: if draft == Draft::Draft4 { "id" } else { "$id" }, ..Graph::default() };
    graph.add_schema(document, String::new(), None);
    graph.walk()?;
    graph.link_references()?;
    graph.check_in_place(bounds)
}

/// Keywords that hold one schema for the same value.
const IN_PLACE_ONE: [&str; 4] = ["not", "if", "then", "else"];
/// Keywords that hold a list of schemas for the same value.
const IN_PLACE_LIST: [&str; 3] = ["allOf", "anyOf", "oneOf"];
/// Keywords that hold schemas by name for the same value.
const IN_PLACE_MAP: [&str; 2] = ["dependentSchemas", "dependencies"];
/// Keywords that hold one schema, or a list, for parts of the value.
const INNER: [&str; 9] = [
    "items",
    "prefixItems",
    "additionalItems",
    "additionalProperties",
    "contains",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contentSchema",
];
/// Keywords that hold schemas by name, for parts of the value or for references.
const INNER_MAP: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];
/// Keywords that refer to another schema for the same value.
const REFERENCES: [&str; 3] = ["$ref", "$dynamicRef", "$recursiveRef"];

/// Formats that need tables of Unicode domain names, which the validator is built without.
const UNASSERTED_FORMATS: [&str; 2] = ["idn-email", "idn-hostname"];

/// A schema with an identity of its own (`$id`), or the whole document.
type ResourceId = usize;
type NodeId = usize;

struct Node<'a> {
    schema: &'a Value,
    pointer: String,
    resource: ResourceId,
    in_place: Vec<NodeId>,
}

#[derive(Default)]
struct Graph<'a> {
    /// The keyword that names a resource: draft 4 writes it without the dollar.
    id_keyword: &'static str,
    nodes: Vec<Node<'a>>,
    /// Nodes by the address of their schema, which the document keeps in place.
    by_address: HashMap<*const Value, NodeId>,
    /// Nodes not walked yet.
    waiting: Vec<NodeId>,
    /// References not resolved yet.
    references: Vec<Reference<'a>>,
    /// The root node of each resource.
    resource_roots: Vec<NodeId>,
    resources_by_id: HashMap<&'a str, ResourceId>,
    anchors: HashMap<(ResourceId, &'a str), NodeId>,
    /// Where `$dynamicRef` may land, by anchor; `$recursiveRef` by the empty text.
    dynamic_anchors: HashMap<&'a str, Vec<NodeId>>,
}

struct Reference<'a> {
    from: NodeId,
    keyword: &'static str,
    text: &'a str,
}

impl<'a> Graph<'a> {
    /// The node of `schema`, made if it is new. `resource` is `None` for the document itself.
    fn add_schema(
        &mut self,
        schema: &'a Value,
        pointer: String,
        resource: Option<ResourceId>,
    ) -> NodeId {
        if let Some(&node) = self.by_address.get(&std::ptr::from_ref(schema)) {
            return node;
        }
        let id = self.nodes.len();
        let own_resource = resource.is_none() || self.own_identity(schema).is_some();
        let resource = match resource {
            Some(resource) if !own_resource => resource,
            _ => {
                self.resource_roots.push(id);
                self.resource_roots.len() - 1
            }
        };
        self.nodes.push(Node { schema, pointer, resource, in_place: Vec::new() });
        self.by_address.insert(std::ptr::from_ref(schema), id);
        self.waiting.push(id);
        id
    }

    fn add_in_place(&mut self, from: NodeId, schema: &'a Value, pointer: String) {
        if is_schema(schema) {
            let resource = self.nodes[from].resource;
            let to = self.add_schema(schema, pointer, Some(resource));
            self.nodes[from].in_place.push(to);
        }
    }

    fn add_inner(&mut self, from: NodeId, schema: &'a Value, pointer: String) {
        if is_schema(schema) {
            let resource = self.nodes[from].resource;
            self.add_schema(schema, pointer, Some(resource));
        }
    }

    fn walk(&mut self) -> Result<(), SchemaError> {
        while let Some(node) = self.waiting.pop() {
            self.walk_schema(node)?;
        }
        Ok(())
    }

    fn walk_schema(&mut self, node: NodeId) -> Result<(), SchemaError> {
        let Value::Object(members) = self.nodes[node].schema else {
            return Ok(());
        };
        self.refuse_unasserted_format(node)?;
        self.note_identity(node)?;
        for (key, value) in members {
            let pointer = below(&self.nodes[node].pointer, key);
            let key = key.as_str();
            if IN_PLACE_ONE.contains(&key) {
                self.add_in_place(node, value, pointer);
            } else if IN_PLACE_LIST.contains(&key) {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    self.add_in_place(node, item, format!("{pointer}/{index}"));
                }
            } else if IN_PLACE_MAP.contains(&key) {
                for (name, item) in value.as_object().into_iter().flatten() {
                    self.add_in_place(node, item, below(&pointer, name));
                }
            } else if INNER.contains(&key) {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    self.add_inner(node, item, format!("{pointer}/{index}"));
                }
                self.add_inner(node, value, pointer);
            } else if INNER_MAP.contains(&key) {
                for (name, item) in value.as_object().into_iter().flatten() {
                    self.add_inner(node, item, below(&pointer, name));
                }
            } else if let Some(&keyword) = REFERENCES.iter().find(|&&keyword| keyword == key)
                && let Some(text) = value.as_str()
            {
                let from = node;
                self.references.push(Reference { from, keyword, text });
            }
        }
        Ok(())
    }

    fn refuse_unasserted_format(&self, node: NodeId) -> Result<(), SchemaError> {
        let Node { schema, pointer, .. } = &self.nodes[node];
        match schema.get("format").and_then(Value::as_str) {
            Some(format) if UNASSERTED_FORMATS.contains(&format) => Err(SchemaError::new(
                below(pointer, "format"),
                format!("the format {format:?} is not checked here; write a pattern"),
            )),
            _ => Ok(()),
        }
    }

    /// The `$id` that makes `schema` a resource; one that is only a fragment is an anchor.
    fn own_identity(&self, schema: &'a Value) -> Option<&'a str> {
        let id = schema.get(self.id_keyword)?.as_str()?;
        (!id.starts_with('#') && !id.is_empty()).then_some(id)
    }

    /// Takes down under which names `node` can be referred to.
    fn note_identity(&mut self, node: NodeId) -> Result<(), SchemaError> {
        let Node { schema, resource, .. } = self.nodes[node];
        let text = |key: &str| schema.get(key).and_then(Value::as_str);
        if let Some(dialect) = text("$schema")
            && draft_of(dialect).is_none()
        {
            return Err(unknown_dialect(&self.nodes[node].pointer, dialect));
        }
        if let Some(id) = self.own_identity(schema) {
            let id = id.strip_suffix('#').unwrap_or(id);
            if is_absolute(id) && self.resources_by_id.insert(id, resource).is_some() {
                let pointer = below(&self.nodes[node].pointer, self.id_keyword);
                return Err(SchemaError::new(pointer, "this $id is given twice"));
            }
        }
        let old_anchor = text(self.id_keyword).and_then(|id| id.strip_prefix('#'));
        let anchors = [text("$anchor"), text("$dynamicAnchor"), old_anchor];
        for anchor in anchors.into_iter().flatten() {
            self.anchors.insert((resource, anchor), node);
        }
        if let Some(anchor) = text("$dynamicAnchor") {
            self.dynamic_anchors.entry(anchor).or_default().push(node);
        }
        if schema.get("$recursiveAnchor") == Some(&Value::Bool(true)) {
            self.dynamic_anchors.entry("").or_default().push(node);
        }
        Ok(())
    }

    /// Resolves all references, those in targets that only a reference shows to be schemas too.
    fn link_references(&mut self) -> Result<(), SchemaError> {
        let mut dynamic = Vec::new();
        while let Some(reference) = self.references.pop() {
            let target = self.resolve(&reference)?;
            self.nodes[reference.from].in_place.push(target);
            if reference.keyword != "$ref" {
                dynamic.push(reference);
            }
            self.walk()?;
        }
        // A dynamic reference may land on any anchor of its name.
        for reference in dynamic {
            let anchor = reference.text.rsplit('#').next().unwrap_or_default();
            let targets = self.dynamic_anchors.get(anchor).cloned().unwrap_or_default();
            self.nodes[reference.from].in_place.extend(targets);
        }
        Ok(())
    }

    fn resolve(&mut self, reference: &Reference<'a>) -> Result<NodeId, SchemaError> {
        let from = &self.nodes[reference.from];
        let refusal =
            |message: String| SchemaError::new(below(&from.pointer, reference.keyword), message);
        let (base, fragment) = reference.text.split_once('#').unwrap_or((reference.text, ""));
        let resource = if base.is_empty() {
            from.resource
        } else {
            *self.resources_by_id.get(base).ok_or_else(|| {
                refusal(format!(
                    "the reference {:?} leaves the document; nothing is fetched",
                    crate::error::clipped(reference.text.to_owned(), 200)
                ))
            })?
        };
        let nowhere = refusal(format!(
            "the reference {:?} leads nowhere",
            crate::error::clipped(reference.text.to_owned(), 200)
        ));
        let Ok(fragment) = percent_decode_str(fragment).decode_utf8() else {
            return Err(nowhere);
        };
        let root = self.resource_roots[resource];
        if fragment.is_empty() {
            return Ok(root);
        }
        if !fragment.starts_with('/') {
            let anchor = self
                .anchors
                .iter()
                .find(|((of, name), _)| *of == resource && *name == fragment.as_ref());
            return anchor.map(|(_, &node)| node).ok_or(nowhere);
        }
        self.at_pointer(root, &fragment).ok_or(nowhere)
    }

    /// The schema that `pointer` names below the root of a resource.
    fn at_pointer(&mut self, root: NodeId, pointer: &str) -> Option<NodeId> {
        let mut value = self.nodes[root].schema;
        let mut resource = self.nodes[root].resource;
        let mut place = self.nodes[root].pointer.clone();
        for segment in pointer.split('/').skip(1) {
            if let Some(&node) = self.by_address.get(&std::ptr::from_ref(value)) {
                resource = self.nodes[node].resource;
            }
            let name = segment.replace("~1", "/").replace("~0", "~");
            value = match value {
                Value::Object(members) => members.get(&name)?,
                Value::Array(items) => items.get(name.parse::<usize>().ok()?)?,
                _ => return None,
            };
            place = below(&place, &name);
        }
        is_schema(value).then(|| self.add_schema(value, place, Some(resource)))
    }

    /// Refuses cycles among in-place edges, and more than `bounds` allows without one.
    fn check_in_place(&self, bounds: Bounds) -> Result<(), SchemaError> {
        let mut done: Vec<Option<Cost>> = vec![None; self.nodes.len()];
        let mut on_path = HashSet::new();
        for start in 0..self.nodes.len() {
            // The path from `start`, each with its next edge and what its edges cost so far.
            let mut path = vec![(start, 0, Cost::ONE)];
            if done[start].is_some() {
                continue;
            }
            on_path.insert(start);
            while let Some((node, edge, cost)) = path.last_mut() {
                let Some(&next) = self.nodes[*node].in_place.get(*edge) else {
                    let (node, _, cost) = path.pop().expect("the loop's condition found it");
                    self.check_cost(node, cost, bounds)?;
                    on_path.remove(&node);
                    done[node] = Some(cost);
                    if let Some((_, _, above)) = path.last_mut() {
                        above.add(cost);
                    }
                    continue;
                };
                *edge += 1;
                if let Some(known) = done[next] {
                    cost.add(known);
                } else if on_path.insert(next) {
                    path.push((next, 0, Cost::ONE));
                } else {
                    return Err(SchemaError::new(
                        self.nodes[next].pointer.clone(),
                        "this schema refers back to itself without stepping into the value",
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_cost(&self, node: NodeId, cost: Cost, bounds: Bounds) -> Result<(), SchemaError> {
        if cost.applied <= bounds.applied_max && cost.nested <= bounds.nested_max {
            return Ok(());
        }
        let (applied, nested) = (bounds.applied_max, bounds.nested_max);
        Err(SchemaError::new(
            self.nodes[node].pointer.clone(),
            format!(
                "more than {applied} schemas, or more than {nested} nested ones, would be \
                 applied to one value"
            ),
        ))
    }
}

/// What a schema costs at one value: the schemas applied along all in-place paths, and the
/// longest of these paths.
#[derive(Clone, Copy)]
struct Cost {
    applied: u64,
    nested: u32,
}

impl Cost {
    const ONE: Self = Self { applied: 1, nested: 1 };

    fn add(&mut self, below: Self) {
        self.applied = self.applied.saturating_add(below.applied);
        self.nested = self.nested.max(below.nested.saturating_add(1));
    }
}

fn is_schema(value: &Value) -> bool {
    value.is_object() || value.is_boolean()
}

fn is_absolute(id: &str) -> bool {
    id.split_once(':')
        .is_some_and(|(scheme, _)| !scheme.is_empty() && !scheme.contains(['/', '?', '#']))
}

pub(crate) fn unknown_dialect(pointer: &str, dialect: &str) -> SchemaError {
    SchemaError::new(
        below(pointer, "$schema"),
        format!(
            "{:?} names no known draft; drafts 4, 6, 7, 2019-09 and 2020-12 are known",
            crate::error::clipped(dialect.to_owned(), 200)
        ),
    )
}

/// The JSON pointer of the member `key` of what `pointer` names.
fn below(pointer: &str, key: &str) -> String {
    let key = key.replace('~', "~0").replace('/', "~1");
    format!("{pointer}/{key}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const BOUNDS: Bounds = Bounds { applied_max: 1_000, nested_max: 32 };

    fn check(document: &Value, bounds: Bounds) -> Result<(), SchemaError> {
        super::check(document, Draft::Draft202012, bounds)
    }

    fn refused_at(document: &Value) -> String {
        check(document, BOUNDS).unwrap_err().pointer
    }

    #[test]
    fn references_that_leave_the_document_are_refused_at_their_place() {
        for target in [
            "https://example.com/address.json",
            "http://169.254.169.254/latest/meta-data",
            "file:///etc/passwd",
            "other.json",
            "../other.json#/x",
            "//host/x",
            "urn:example:address",
            "https://json-schema.org/draft/2020-12/schema",
        ] {
            let document = json!({"properties": {"a": {"$ref": target}}});
            assert_eq!(refused_at(&document), "/properties/a/$ref", "{target}");
        }
    }

    #[test]
    fn references_inside_of_the_document_are_followed() {
        let document = json!({
            "$id": "https://example.com/order",
            "properties": {
                "a": {"$ref": "#/$defs/a~1b%25"},
                "b": {"$ref": "#city"},
                "c": {"$ref": "https://example.com/address"},
                "d": {"$ref": "https://example.com/address#/$defs/zip"},
                "e": {"$ref": "https://example.com/order#/elsewhere/x"},
                "f": {"$ref": "#"}
            },
            "elsewhere": {"x": {"type": "string"}},
            "$defs": {
                "a/b%": true,
                "city": {"$anchor": "city"},
                "address": {
                    "$id": "https://example.com/address",
                    "$defs": {"zip": {"type": "string"}},
                    "properties": {"zip": {"$ref": "#/$defs/zip"}}
                }
            }
        });
        check(&document, BOUNDS).unwrap();
    }

    #[test]
    fn dangling_references_are_refused() {
        for target in ["#/$defs/b", "#b", "#/properties/a/$ref", "#/%ff"] {
            let document = json!({"properties": {"a": {"$ref": target}}, "$defs": {"a": {}}});
            assert_eq!(refused_at(&document), "/properties/a/$ref", "{target}");
        }
    }

    #[test]
    fn data_that_looks_like_a_reference_is_none() {
        let document = json!({
            "const": {"$ref": "https://example.com"},
            "enum": [{"$ref": "file:///x"}],
            "properties": {"$ref": {"type": "string"}, "$schema": {"type": "string"}}
        });
        check(&document, BOUNDS).unwrap();
    }

    #[test]
    fn a_cycle_that_consumes_nothing_is_refused() {
        let direct = json!({"$ref": "#"});
        assert_eq!(refused_at(&direct), "");
        let pair = json!({
            "properties": {"v": {"$ref": "#/$defs/a"}},
            "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}
        });
        assert!(refused_at(&pair).starts_with("/$defs/"));
        let dynamic = json!({
            "$dynamicAnchor": "node",
            "anyOf": [{"$dynamicRef": "#node"}, true]
        });
        assert!(check(&dynamic, BOUNDS).is_err());
        let hidden = json!({
            "properties": {"v": {"$ref": "#/x/a"}},
            "x": {"a": {"not": {"$ref": "#/x/a"}}}
        });
        assert!(check(&hidden, BOUNDS).is_err());
    }

    #[test]
    fn recursion_through_the_value_is_accepted() {
        let tree = json!({
            "$ref": "#/$defs/node",
            "$defs": {"node": {
                "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/node"}}}
            }}
        });
        check(&tree, BOUNDS).unwrap();
    }

    #[test]
    fn doubling_references_are_refused() {
        let mut defs = serde_json::Map::new();
        for level in 0..30 {
            let next = json!({"$ref": format!("#/$defs/d{}", level + 1)});
            defs.insert(format!("d{level}"), json!({"allOf": [next.clone(), next]}));
        }
        defs.insert("d30".to_owned(), json!({"type": "string"}));
        let document = json!({"$ref": "#/$defs/d0", "$defs": defs});
        assert!(check(&document, BOUNDS).is_err());
    }

    #[test]
    fn long_chains_of_references_are_refused() {
        let chain = |links: usize| {
            let mut defs = serde_json::Map::new();
            for link in 0..links {
                let next = json!({"$ref": format!("#/$defs/d{}", link + 1)});
                defs.insert(format!("d{link}"), next);
            }
            defs.insert(format!("d{links}"), json!({"type": "string"}));
            json!({"$ref": "#/$defs/d0", "$defs": defs})
        };
        check(&chain(20), BOUNDS).unwrap();
        assert!(check(&chain(20_000), BOUNDS).is_err());
    }

    #[test]
    fn an_unknown_dialect_inside_is_refused() {
        let document = json!({"$defs": {"a": {"$schema": "https://example.com/mine"}}});
        assert_eq!(refused_at(&document), "/$defs/a/$schema");
    }
}
