//! `where`: what must hold of an event's fields.
//!
//! ```text
//! expression = term { "or" term }            term = factor { "and" factor }
//! factor     = "not" factor | "(" expression ")" | "exists" "(" field ")" | test
//! test       = field compare value | field "in" "[" value { "," value } "]"
//! compare    = "==" | "!=" | "<" | "<=" | ">" | ">="
//!            | "contains" | "starts_with" | "ends_with" | "like"
//! value      = number | "text" | 'text' | true | false | null
//! ```
//!
//! - A field that the event does not have equals nothing, not even `null`, and is less and greater
//!   than nothing. `!=` is `not ... ==`: it holds where the field is absent.
//! - Numbers compare as numbers: integers exactly, others as doubles. Texts compare byte by byte. A
//!   number and a text are neither equal nor ordered.
//! - `contains` looks for a text in a text, or for an element of an array. `like` takes a pattern
//!   of [`Pattern`].
//!
//! Sans-io: an expression is read once, and judged for each event.

use std::cmp::Ordering;
use std::fmt;

use tracklog_protocol::event::EventView;

use super::field::{Field, Number, Value, quoted};
use super::pattern::Pattern;

/// How deep brackets and `not` may lie in each other.
const DEPTH_MAX: usize = 32;
/// How many tests an expression may have.
const TESTS_MAX: usize = 256;

/// An expression that was read.
#[derive(Clone, Debug)]
pub(super) struct Expression {
    root: Node,
}

#[derive(Clone, Debug)]
enum Node {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Exists(Field),
    Test(Field, Test),
}

#[derive(Clone, Debug)]
enum Test {
    Is(Literal),
    Order(fn(Ordering) -> bool, Literal),
    In(Vec<Literal>),
    Contains(Literal),
    StartsWith(String),
    EndsWith(String),
    Like(Pattern),
}

#[derive(Clone, Debug, PartialEq)]
enum Literal {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
}

/// A text that is no expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: {what}")]
pub(super) struct ExpressionError {
    /// From 1.
    at: usize,
    what: String,
}

impl Expression {
    /// Reads an expression.
    pub(super) fn parse(text: &str) -> Result<Self, ExpressionError> {
        let mut reader = Reader { text, rest: text, depth: 0, tests: 0 };
        let root = reader.expression()?;
        reader.skip_space();
        if reader.rest.is_empty() {
            Ok(Self { root })
        } else {
            reader.wrong("nothing more was expected")
        }
    }

    /// Whether it holds of `event`.
    pub(super) fn holds(&self, event: &EventView<'_>) -> bool {
        self.root.holds(event)
    }
}

impl Node {
    fn holds(&self, event: &EventView<'_>) -> bool {
        match self {
            Self::All(nodes) => nodes.iter().all(|node| node.holds(event)),
            Self::Any(nodes) => nodes.iter().any(|node| node.holds(event)),
            Self::Not(node) => !node.holds(event),
            Self::Exists(field) => field.value(event).is_some(),
            Self::Test(field, test) => field.value(event).is_some_and(|value| test.holds(&value)),
        }
    }
}

impl Test {
    fn holds(&self, value: &Value<'_>) -> bool {
        match self {
            Self::Is(literal) => literal.equals(value),
            Self::In(literals) => literals.iter().any(|literal| literal.equals(value)),
            Self::Order(holds, literal) => literal.order(value).is_some_and(holds),
            Self::Contains(literal) => literal.is_in(value),
            Self::StartsWith(begin) => text(value).is_some_and(|it| it.starts_with(begin)),
            Self::EndsWith(end) => text(value).is_some_and(|it| it.ends_with(end)),
            Self::Like(pattern) => text(value).is_some_and(|it| pattern.fits(it)),
        }
    }
}

fn text<'v>(value: &'v Value<'_>) -> Option<&'v str> {
    if let Value::Text(text) = value { Some(text) } else { None }
}

impl Literal {
    fn equals(&self, value: &Value<'_>) -> bool {
        match (self, value) {
            (Self::Null, Value::Null) => true,
            (Self::Bool(one), Value::Bool(other)) => one == other,
            (Self::Number(one), Value::Number(other)) => one == other,
            (Self::Text(one), Value::Text(other)) => one == other,
            _ => false,
        }
    }

    /// How `value` compares to it.
    fn order(&self, value: &Value<'_>) -> Option<Ordering> {
        match (value, self) {
            (Value::Number(one), Self::Number(other)) => one.partial_cmp(other),
            (Value::Text(one), Self::Text(other)) => Some(one.as_ref().cmp(other)),
            _ => None,
        }
    }

    fn is_in(&self, value: &Value<'_>) -> bool {
        match (self, value) {
            (Self::Text(part), Value::Text(whole)) => whole.contains(part.as_str()),
            (_, Value::Array(_)) => {
                value.elements().into_iter().any(|element| self.equals(&element.into()))
            }
            _ => false,
        }
    }
}

/// A text that is read from the left.
struct Reader<'t> {
    text: &'t str,
    rest: &'t str,
    depth: usize,
    tests: usize,
}

type Read<T> = Result<T, ExpressionError>;

impl Reader<'_> {
    fn wrong<T>(&self, what: impl fmt::Display) -> Read<T> {
        let done = self.text.len() - self.rest.len();
        let at = self.text[..done].chars().count() + 1;
        Err(ExpressionError { at, what: what.to_string() })
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Takes `wanted`, a sign.
    fn take(&mut self, wanted: &str) -> bool {
        self.skip_space();
        self.rest.strip_prefix(wanted).map(|rest| self.rest = rest).is_some()
    }

    /// Takes `wanted`, a word that ends there.
    fn take_word(&mut self, wanted: &str) -> bool {
        self.skip_space();
        match self.rest.strip_prefix(wanted) {
            Some(rest) if !rest.starts_with(is_of_name) => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn expect(&mut self, wanted: &str) -> Read<()> {
        if self.take(wanted) { Ok(()) } else { self.wrong(format!("{wanted:?} was expected")) }
    }

    fn expression(&mut self) -> Read<Node> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return self.wrong(format!("deeper than {DEPTH_MAX}"));
        }
        let mut terms = vec![self.term()?];
        while self.take_word("or") {
            terms.push(self.term()?);
        }
        self.depth -= 1;
        Ok(one_or(terms, Node::Any))
    }

    fn term(&mut self) -> Read<Node> {
        let mut factors = vec![self.factor()?];
        while self.take_word("and") {
            factors.push(self.factor()?);
        }
        Ok(one_or(factors, Node::All))
    }

    fn factor(&mut self) -> Read<Node> {
        // Many in a row are as deep as brackets would be.
        let mut negations = 0;
        while self.take_word("not") {
            negations += 1;
        }
        let node = self.bare_factor()?;
        Ok(if negations % 2 == 0 { node } else { Node::Not(Box::new(node)) })
    }

    fn bare_factor(&mut self) -> Read<Node> {
        if self.take("(") {
            let node = self.expression()?;
            self.expect(")")?;
            return Ok(node);
        }
        self.tests += 1;
        if self.tests > TESTS_MAX {
            return self.wrong(format!("more than {TESTS_MAX} tests"));
        }
        if self.take_word("exists") {
            self.expect("(")?;
            let field = self.field()?;
            self.expect(")")?;
            return Ok(Node::Exists(field));
        }
        let field = self.field()?;
        self.test(field)
    }

    fn field(&mut self) -> Read<Field> {
        self.skip_space();
        let mut end = 0;
        loop {
            let rest = &self.rest[end..];
            if rest.starts_with('"') && (end == 0 || self.rest[..end].ends_with('.')) {
                let Some((_, behind)) = quoted(rest) else {
                    return self.wrong("a quote is not closed");
                };
                end = self.rest.len() - behind.len();
                continue;
            }
            match rest.chars().next().filter(|it| is_of_name(*it) || *it == '.') {
                Some(character) => end += character.len_utf8(),
                None => break,
            }
        }
        if end == 0 {
            return self.wrong("a field was expected");
        }
        match Field::parse(&self.rest[..end]) {
            Ok(field) => {
                self.rest = &self.rest[end..];
                Ok(field)
            }
            Err(error) => self.wrong(error),
        }
    }

    fn test(&mut self, field: Field) -> Read<Node> {
        if self.take("!=") {
            let is = Node::Test(field, Test::Is(self.literal()?));
            return Ok(Node::Not(Box::new(is)));
        }
        let test = if self.take("==") {
            Test::Is(self.literal()?)
        } else if self.take("<=") {
            Test::Order(Ordering::is_le, self.ordered()?)
        } else if self.take(">=") {
            Test::Order(Ordering::is_ge, self.ordered()?)
        } else if self.take("<") {
            Test::Order(Ordering::is_lt, self.ordered()?)
        } else if self.take(">") {
            Test::Order(Ordering::is_gt, self.ordered()?)
        } else if self.take_word("in") {
            Test::In(self.literals()?)
        } else if self.take_word("contains") {
            Test::Contains(self.literal()?)
        } else if self.take_word("starts_with") {
            Test::StartsWith(self.text()?)
        } else if self.take_word("ends_with") {
            Test::EndsWith(self.text()?)
        } else if self.take_word("like") {
            Test::Like(Pattern::new(&self.text()?))
        } else {
            return self.wrong(
                "a comparison was expected: ==, !=, <, <=, >, >=, in, contains, starts_with, \
                 ends_with or like",
            );
        };
        Ok(Node::Test(field, test))
    }

    fn literals(&mut self) -> Read<Vec<Literal>> {
        self.expect("[")?;
        let mut literals = vec![self.literal()?];
        while self.take(",") {
            literals.push(self.literal()?);
        }
        self.expect("]")?;
        Ok(literals)
    }

    /// A literal that has an order.
    fn ordered(&mut self) -> Read<Literal> {
        let before = self.rest;
        match self.literal()? {
            literal @ (Literal::Number(_) | Literal::Text(_)) => Ok(literal),
            Literal::Null | Literal::Bool(_) => {
                self.rest = before;
                self.wrong("only numbers and texts have an order")
            }
        }
    }

    fn text(&mut self) -> Read<String> {
        let before = self.rest;
        match self.literal()? {
            Literal::Text(text) => Ok(text),
            _ => {
                self.rest = before;
                self.wrong("a text was expected")
            }
        }
    }

    fn literal(&mut self) -> Read<Literal> {
        self.skip_space();
        if self.rest.starts_with('"') {
            let Some((text, rest)) = quoted(self.rest) else {
                return self.wrong("this is no text as JSON writes them");
            };
            self.rest = rest;
            return Ok(Literal::Text(text));
        }
        if let Some(rest) = self.rest.strip_prefix('\'') {
            let Some((text, rest)) = rest.split_once('\'') else {
                return self.wrong("the quote is not closed");
            };
            self.rest = rest;
            return Ok(Literal::Text(text.to_owned()));
        }
        for (word, literal) in WORDS {
            if self.take_word(word) {
                return Ok(literal);
            }
        }
        self.number()
    }

    fn number(&mut self) -> Read<Literal> {
        let is_of_number = |it: char| it.is_ascii_alphanumeric() || "+-.".contains(it);
        let end = self.rest.find(|it| !is_of_number(it)).unwrap_or(self.rest.len());
        let token = &self.rest[..end];
        match Number::from_token(token).filter(|_| token.starts_with(is_of_digit)) {
            Some(number) => {
                self.rest = &self.rest[end..];
                Ok(Literal::Number(number))
            }
            None => self.wrong("a number, a text in quotes, true, false or null was expected"),
        }
    }
}

const WORDS: [(&str, Literal); 3] =
    [("true", Literal::Bool(true)), ("false", Literal::Bool(false)), ("null", Literal::Null)];

fn is_of_name(character: char) -> bool {
    character.is_alphanumeric() || "_$-".contains(character)
}

const fn is_of_digit(character: char) -> bool {
    character.is_ascii_digit() || character == '-'
}

fn one_or(mut nodes: Vec<Node>, many: fn(Vec<Node>) -> Node) -> Node {
    if nodes.len() == 1 { nodes.pop().expect("there is one") } else { many(nodes) }
}
