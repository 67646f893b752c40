//! Spans of time on the command line.

use std::time::Duration;

/// `10s` and its like.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time like 10s, 5m or 1h");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "s" => Some(number),
        "m" => number.checked_mul(60),
        "h" => number.checked_mul(3_600),
        _ => None,
    };
    seconds.map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(span("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(span("2h"), Ok(Duration::from_secs(7_200)));
        for text in ["", "10", "s", "1.5s", "-1s"] {
            assert!(span(text).is_err(), "{text}");
        }
    }
}
