//! Text for terminals: what others wrote can neither move the cursor nor turn letters around.
//!
//! Names, paths, messages and arguments are free text. Everything that is printed for people goes
//! through [`printable`]; lines of JSON do not, since they are data.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The text with each letter escaped (`\u{1b}`) that would do something instead of being seen.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(does_something) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        if does_something(letter) {
            write!(shown, "{}", letter.escape_unicode()).expect("a string takes all text");
        } else {
            shown.push(letter);
        }
    }
    Cow::Owned(shown)
}

/// Control characters, separators of lines, and the invisible ones that set a text's direction or
/// hide in it. Joiners stay: emoji and several scripts are written with them.
fn does_something(letter: char) -> bool {
    letter.is_control()
        || matches!(
            letter,
            '\u{61c}'
                | '\u{200b}'
                | '\u{200e}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
        )
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn what_moves_the_cursor_or_turns_text_is_shown_as_an_escape() {
        for (text, shown) in [
            ("a\x1b[2Jb\nc\r\t", r"a\u{1b}[2Jb\u{a}c\u{d}\u{9}"),
            ("\u{9b}2J\u{7f}", r"\u{9b}2J\u{7f}"),
            ("pay\u{202e}exe.gnp", r"pay\u{202e}exe.gnp"),
            ("\u{2066}x\u{2069}\u{feff}\u{2028}", r"\u{2066}x\u{2069}\u{feff}\u{2028}"),
        ] {
            assert_eq!(printable(text), shown);
        }
    }

    #[test]
    fn text_that_is_only_seen_stays() {
        for text in ["Order (new)", "naïve", "注文", "سفارش\u{200c}ها", "👩\u{200d}💻", "{\"a\":1}"]
        {
            assert_eq!(printable(text), text);
        }
    }
}
