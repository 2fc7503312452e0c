//! Durations and sizes as an operator writes them. Pure.
//!
//! A number always carries its unit (`"250ms"`, `"64KiB"`): a bare `5` is where outages come from.
//! Only `0` needs none.

use std::time::Duration;

/// Reads `250ms`, `1.5s`, `10s`, `2m`, `1h 30m`, `1d`.
///
/// # Errors
/// A sentence on what is wrong with the text.
pub fn duration(text: &str) -> Result<Duration, String> {
    use humantime::DurationError::UnknownUnit;

    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if !text.trim_start().starts_with(|c: char| c.is_ascii_digit()) {
        return Err("it does not begin with a number".to_string());
    }
    humantime::parse_duration(text).map_err(|error| match error {
        UnknownUnit { unit, .. } if unit.is_empty() => "it has no unit".to_string(),
        UnknownUnit { unit, .. } => format!("the unit {unit:?} is not known"),
        other => other.to_string(),
    })
}

/// Reads `4096B`, `64KiB`, `10MiB`, `1GiB`.
///
/// # Errors
/// A sentence on what is wrong with the text; a decimal unit names its binary neighbour.
pub fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "it does not begin with a number".to_string())?;
    let factor: u64 = match unit.trim_start() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "" if number == 0 => 1,
        "" => return Err("it has no unit".to_string()),
        other => {
            let meant = match other.to_ascii_lowercase().as_bytes().first() {
                Some(b'k') => ", write KiB",
                Some(b'm') => ", write MiB",
                Some(b'g') => ", write GiB",
                _ => "",
            };
            return Err(format!("the unit {other:?} is not known{meant}"));
        }
    };
    number.checked_mul(factor).ok_or_else(|| "it is too large".to_string())
}

/// A duration as it would be written here.
pub fn duration_text(value: Duration) -> String {
    humantime::format_duration(value).to_string()
}

/// A size as it would be written here.
pub fn size_text(bytes: u64) -> String {
    for (unit, factor) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_size(text: &str, expected: Result<u64, &str>) {
        assert_eq!(size(text), expected.map_err(str::to_string));
    }

    #[test]
    fn sizes_carry_a_binary_unit() {
        check_size("64KiB", Ok(65_536));
        check_size("2 MiB", Ok(2_097_152));
        check_size("17B", Ok(17));
        check_size("0", Ok(0));
        check_size("64", Err("it has no unit"));
        check_size("64kb", Err("the unit \"kb\" is not known, write KiB"));
        check_size("KiB", Err("it does not begin with a number"));
        check_size("99999999999GiB", Err("it is too large"));
    }

    #[test]
    fn durations_carry_a_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("5"), Err("it has no unit".to_string()));
        assert!(duration("soon").is_err());
        assert!(duration("").is_err());
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        for bytes in [0, 1, 1023, 1024, 65_536, 3 << 30] {
            assert_eq!(size(&size_text(bytes)), Ok(bytes));
        }
        let value = Duration::from_millis(90_250);
        assert_eq!(duration(&duration_text(value)), Ok(value));
    }
}
