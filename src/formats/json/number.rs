//! Decides whether a double holds a JSON number exactly.

use serde_json::Number;

/// Magnitude up to which doubles hold every integer.
const INTEGER_MAX: u64 = 1 << 53;

/// Returns the number if a double holds it: an integer up to 2^53, or a number with a fraction or an exponent that is
/// printed as the same decimal after it was stored in a double.
pub(super) fn exact(text: &str) -> Option<Number> {
    if !text.contains(['.', 'e', 'E']) {
        let integer: i64 = text.parse().ok()?;
        return (integer.unsigned_abs() <= INTEGER_MAX).then(|| integer.into());
    }
    let double: f64 = text.parse().ok()?;
    let number = Number::from_f64(double)?;
    (decimal(text) == decimal(&format!("{double:e}"))).then_some(number)
}

/// A decimal number as a sign, digits without zeros at either end, and the exponent of the last digit.
type Decimal = (bool, String, i64);

/// Returns the parts of a number, or `None` if its exponent is beyond any double.
fn decimal(text: &str) -> Option<Decimal> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i64 = exponent.parse().ok()?;
    let (negative, mantissa) = match mantissa.strip_prefix('-') {
        Some(mantissa) => (true, mantissa),
        None => (false, mantissa),
    };
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{integer}{fraction}");
    let significant = digits.trim_end_matches('0');
    let zeros = i64::try_from(digits.len() - significant.len()).ok()?;
    let significant = significant.trim_start_matches('0').to_owned();
    if significant.is_empty() {
        return Some((negative, significant, 0));
    }
    let exponent = exponent
        .checked_sub(i64::try_from(fraction.len()).ok()?)?
        .checked_add(zeros)?;
    Some((negative, significant, exponent))
}

#[cfg(test)]
mod tests {
    use super::exact;

    #[test]
    fn numbers_that_a_double_would_round_are_not_exact() {
        for text in [
            "0",
            "-7",
            "9007199254740992",
            "0.1",
            "1e20",
            "1.50",
            "-2.5E-3",
            "0.000",
            "1e308",
        ] {
            assert!(exact(text).is_some(), "{text}");
        }
        for text in [
            "9007199254740993",
            "12345678901234567890",
            "123456789012345678901234567890",
            "1e400",
            "-1e99999999999999999999",
            "3.14159265358979323846",
            "1e-400",
        ] {
            assert!(exact(text).is_none(), "{text}");
        }
    }
}
