//! Numbers: their grammar, and whether a double holds them finitely. Digits are never changed.

/// What a token that starts like a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    /// A number that ends here.
    Finite(usize),
    /// A number beyond every double, that ends here.
    Infinite(usize),
    /// No number.
    Bad,
}

/// Reads the number at `at`, where a digit or a minus stands.
#[inline(always)]
pub(super) fn read(body: &[u8], at: usize) -> Number {
    let start = if body.get(at) == Some(&b'-') { at + 1 } else { at };
    let end = digits(body, start);
    let leading_zero = body.get(start) == Some(&b'0');
    if end == start || (leading_zero && end > start + 1) {
        return Number::Bad;
    }
    match body.get(end) {
        // Whole numbers below 1e300 are the common case, and need no more.
        Some(b'.' | b'e' | b'E') => read_rest(body, at, start, end),
        _ if end - start <= 300 => Number::Finite(end),
        _ => judge(body, at, end, scale(body, start, end, None), 0),
    }
}

fn read_rest(body: &[u8], at: usize, start: usize, whole_end: usize) -> Number {
    let mut end = whole_end;
    let mut fraction = None;
    if body.get(end) == Some(&b'.') {
        let fraction_end = digits(body, end + 1);
        if fraction_end == end + 1 {
            return Number::Bad;
        }
        fraction = Some((end + 1, fraction_end));
        end = fraction_end;
    }
    let mut exponent = 0i64;
    if let Some(b'e' | b'E') = body.get(end) {
        let sign = usize::from(matches!(body.get(end + 1), Some(b'+' | b'-')));
        let digits_start = end + 1 + sign;
        let exponent_end = digits(body, digits_start);
        if exponent_end == digits_start {
            return Number::Bad;
        }
        exponent = power(body.get(digits_start..exponent_end).unwrap_or_default());
        if body.get(end + 1) == Some(&b'-') {
            exponent = -exponent;
        }
        end = exponent_end;
    }
    if exponent <= 0 && whole_end - start <= 300 {
        return Number::Finite(end);
    }
    judge(body, at, end, scale(body, start, whole_end, fraction), exponent)
}

/// Whether the number of `at..end` is finite. `scale` is the power of ten of its first digit
/// before the exponent counts; a number of zeros has none.
fn judge(body: &[u8], at: usize, end: usize, scale: Option<i64>, exponent: i64) -> Number {
    let power = scale.map_or(i64::MIN, |scale| scale.saturating_add(exponent));
    let finite = match power {
        ..308 => true,
        // 1.797…e308 is the largest: only the digits tell.
        308 => body
            .get(at..end)
            .and_then(|digits| str::from_utf8(digits).ok()?.parse::<f64>().ok())
            .is_some_and(f64::is_finite),
        309.. => false,
    };
    if finite { Number::Finite(end) } else { Number::Infinite(end) }
}

fn scale(body: &[u8], start: usize, end: usize, fraction: Option<(usize, usize)>) -> Option<i64> {
    let nonzero = |from: usize, to: usize| {
        body.get(from..to).unwrap_or_default().iter().position(|&digit| digit != b'0')
    };
    if let Some(first) = nonzero(start, end) {
        return i64::try_from(end - start - first - 1).ok();
    }
    let (from, to) = fraction?;
    let first = i64::try_from(nonzero(from, to)?).ok()?;
    Some(-first - 1)
}

/// The value of an exponent's digits, cut off far beyond what a body's length could make up for.
fn power(digits: &[u8]) -> i64 {
    const CUT: i64 = 1 << 40;
    digits.iter().fold(0, |value, &digit| (value * 10 + i64::from(digit - b'0')).min(CUT))
}

#[inline(always)]
fn digits(body: &[u8], mut at: usize) -> usize {
    while body.get(at).is_some_and(u8::is_ascii_digit) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_finite(text: &str) -> bool {
        match read(text.as_bytes(), 0) {
            Number::Finite(end) => {
                assert_eq!(end, text.len(), "{text}");
                true
            }
            Number::Infinite(end) => {
                assert_eq!(end, text.len(), "{text}");
                false
            }
            Number::Bad => panic!("{text} is a number"),
        }
    }

    #[test]
    fn the_border_of_doubles_is_exact() {
        for text in [
            "0",
            "-0",
            "1e-400",
            "1.7976931348623157e308",
            "1.797693134862315807e308",
            "17976931348623157e292",
            "0.00017976931348623157e312",
            "0e999",
            "-0.0e99999999999999999999",
        ] {
            assert!(is_finite(text), "{text}");
        }
        for text in
            ["1e400", "-1e309", "1.797693134862315808e308", "1.8e308", "1e99999999999999999999"]
        {
            assert!(!is_finite(text), "{text}");
        }
    }

    #[test]
    fn long_digits_count() {
        assert!(is_finite(&"9".repeat(308)));
        assert!(!is_finite(&"9".repeat(310)));
        assert!(is_finite(&format!("{}e-5", "9".repeat(310))));
        assert!(!is_finite(&format!("0.{}1e{}", "0".repeat(100_000), 100_000 + 310)));
        assert!(is_finite(&format!("0.{}1e{}", "0".repeat(100_000), 100_000 + 300)));
    }

    #[test]
    fn what_is_no_number_is_none() {
        for text in ["-", "01", "-01", "1.", "1.e3", "1e", "1e+", "-.5"] {
            assert!(matches!(read(text.as_bytes(), 0), Number::Bad), "{text}");
        }
    }
}
