//! Settings that are durations, such as `500ms`, `30s` or `5m`.

use std::ops::RangeInclusive;
use std::time::Duration;

use humantime::{format_duration, parse_duration};

/// Returns a parser of durations within bounds in seconds. A number without a unit is in seconds, the form
/// that earlier versions required.
pub(super) fn duration(
    bounds: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    let bounds = Duration::from_secs(*bounds.start())..=Duration::from_secs(*bounds.end());
    move |text| {
        let duration = match text.parse() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => parse_duration(text).map_err(|error| error.to_string())?,
        };
        if !bounds.contains(&duration) {
            let [min, max] = [bounds.start(), bounds.end()].map(|bound| format_duration(*bound));
            return Err(format!("{text} is not in {min}..={max}"));
        }
        Ok(duration)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::duration;

    #[test]
    fn durations_have_a_unit_or_are_seconds() {
        let parse = duration(1..=3_600);
        for (text, millis) in [
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("1500ms", 1_500),
            ("1m 30s", 90_000),
            ("30", 30_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn durations_out_of_bounds_or_malformed_are_rejected() {
        let parse = duration(1..=3_600);
        for text in ["0", "999ms", "3601", "2h", "-1", "", "many", "5 parsecs", "1.5"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert_eq!(parse("2h"), Err("2h is not in 1s..=1h".to_owned()));
    }
}
