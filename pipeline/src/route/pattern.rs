//! Patterns of names: `*` stands for any run of characters, `?` for any one; `\` before one of
//! these, or before itself, takes it as it is. Upper and lower case differ.
//!
//! Matching takes time in proportion to the name times the pattern at worst, and never recurses.

/// A pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    steps: Box<[Step]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Is(char),
    Any,
    AnyRun,
}

impl Pattern {
    /// Reads a pattern. All texts are patterns.
    pub(super) fn new(text: &str) -> Self {
        let mut steps = Vec::new();
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            let step = match character {
                '*' => Step::AnyRun,
                '?' => Step::Any,
                '\\' => Step::Is(characters.next_if(|it| "*?\\".contains(*it)).unwrap_or('\\')),
                itself => Step::Is(itself),
            };
            if step != Step::AnyRun || steps.last() != Some(&Step::AnyRun) {
                steps.push(step);
            }
        }
        Self { steps: steps.into() }
    }

    /// The only text that fits, where there is but one.
    pub(super) fn literal(&self) -> Option<String> {
        let literal = |step: &Step| if let Step::Is(it) = step { Some(*it) } else { None };
        self.steps.iter().map(literal).collect()
    }

    /// Whether `text` fits.
    pub(super) fn fits(&self, text: &str) -> bool {
        let (mut step, mut rest) = (0, text);
        // Behind the last run: which step is next, and what it was tried on.
        let mut again: Option<(usize, &str)> = None;
        loop {
            let mut characters = rest.chars();
            match (self.steps.get(step), characters.next()) {
                (None, None) => return true,
                (Some(Step::AnyRun), _) => {
                    step += 1;
                    again = Some((step, rest));
                    continue;
                }
                (Some(Step::Any), Some(_)) => {}
                (Some(Step::Is(wanted)), Some(found)) if *wanted == found => {}
                _ => {
                    // The run takes one character more.
                    let Some((next, tried)) = again else { return false };
                    let mut longer = tried.chars();
                    if longer.next().is_none() {
                        return false;
                    }
                    (step, rest, again) = (next, longer.as_str(), Some((next, longer.as_str())));
                    continue;
                }
            }
            (step, rest) = (step + 1, characters.as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same by recursion.
    fn fits_plainly(pattern: &[char], text: &[char]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            (['*', rest @ ..], _) => {
                (0..=text.len()).any(|taken| fits_plainly(rest, &text[taken..]))
            }
            (['?', pattern @ ..], [_, text @ ..]) => fits_plainly(pattern, text),
            ([one, pattern @ ..], [other, text @ ..]) => {
                one == other && fits_plainly(pattern, text)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn a_pattern_fits_what_the_plain_reading_of_it_fits(
            pattern in "[ab*?]{0,8}", text in "[abü]{0,10}",
        ) {
            let of = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(
                Pattern::new(&pattern).fits(&text),
                fits_plainly(&of(&pattern), &of(&text))
            );
        }
    }

    #[test]
    fn what_is_escaped_stands_for_itself() {
        assert!(Pattern::new(r"50\*").fits("50*"));
        assert!(!Pattern::new(r"50\*").fits("500"));
        assert_eq!(Pattern::new(r"a\?\\b\c").literal().as_deref(), Some(r"a?\b\c"));
        assert_eq!(Pattern::new("Order *").literal(), None);
    }
}
