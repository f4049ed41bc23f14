//! Sizes like `"10GiB"` and `"500MB"`. Not rates, and no fractions: `"1.5GiB"` is `"1536MiB"`.
//!
//! Invariant: what does not fit 64 bits is refused, not wrapped.

const UNITS: [(&str, u64); 10] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// The bytes of a text like `10GiB`.
pub(super) fn parse(text: &str) -> Option<u64> {
    let (number, unit) =
        UNITS.iter().find_map(|(unit, bytes)| text.strip_suffix(unit).map(|n| (n.trim_end(), bytes)))?;
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    if is_number { number.parse::<u64>().ok()?.checked_mul(*unit) } else { None }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_read_as_people_write_them_and_nothing_else_is() {
        for (text, bytes) in
            [("10GiB", Some(10 << 30)), ("500MB", Some(500_000_000)), ("7 B", Some(7)), ("0kB", Some(0))]
        {
            assert_eq!(super::parse(text), bytes, "{text}");
        }
        for text in ["", "10", "GiB", "1.5GiB", "-1GB", "+1GB", "10gib", "99999999999TiB", "1 0GB"] {
            assert_eq!(super::parse(text), None, "{text}");
        }
    }
}
