//! Validation tests of requests: one field at a time at its limit and just past it.

use std::fmt::Debug;

use prost_types::{ListValue, NullValue, Struct, Timestamp, Value, value::Kind};
use tonic::{Code, Status};

use crate::support::builders::{bad_fields, number, object, text};

/// A valid id that no spirit and no event has.
pub const UNKNOWN_ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
pub const META_BYTES_MAX: usize = 64 * 1024;
/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
const FIRST_SECOND: i64 = -62_135_596_800;
const LAST_SECOND: i64 = 253_402_300_799;

/// Values of a field: description, value, and whether the service must accept it.
pub type Values<V> = Vec<(&'static str, V, bool)>;

/// Test cases of a request: a valid one, and variants with one change each.
pub struct ValidationCases<R> {
    base: R,
    /// Description, request, and the fields that the service must name as bad.
    cases: Vec<(String, R, Vec<&'static str>)>,
}

impl<R: Clone + Debug> ValidationCases<R> {
    pub fn new(base: R) -> Self {
        let cases = vec![("the valid base request".to_owned(), base.clone(), vec![])];
        Self { base, cases }
    }

    /// Adds a case for each value; the refused values must be reported as `field`.
    pub fn field<V>(mut self, field: &'static str, values: Values<V>, set: impl Fn(&mut R, V)) -> Self {
        for (description, value, is_valid) in values {
            let mut request = self.base.clone();
            set(&mut request, value);
            let bad = if is_valid { vec![] } else { vec![field] };
            self.cases.push((format!("{field}: {description}"), request, bad));
        }
        self
    }

    /// Adds a case with one change, after which exactly these fields are bad.
    pub fn case(mut self, description: &str, bad: &[&'static str], change: impl Fn(&mut R)) -> Self {
        let mut request = self.base.clone();
        change(&mut request);
        self.cases.push((description.to_owned(), request, bad.to_vec()));
        self
    }

    /// Makes a call for every case and checks which fields are reported as bad.
    pub async fn run(self, mut call: impl AsyncFnMut(R) -> Result<(), Status>) {
        for (description, request, bad) in self.cases {
            let reported = match call(request).await {
                // Fields are validated before anything is looked up, so NOT_FOUND means that all are valid.
                Ok(()) => vec![],
                Err(status) if status.code() == Code::NotFound => vec![],
                result => {
                    if let Err(status) = &result {
                        assert_eq!(status.code(), Code::InvalidArgument, "{description}: {status:?}");
                    }
                    bad_fields(result)
                }
            };
            assert_eq!(reported, bad, "{description}");
        }
    }
}

/// Texts for a field of 1 to `max` code points.
pub fn chars(max: usize) -> Values<String> {
    vec![
        ("empty", String::new(), false),
        ("one character", "é".to_owned(), true),
        ("as many characters as allowed", "🐘".repeat(max), true),
        ("one character more", "🐘".repeat(max + 1), false),
        ("one character more, of ASCII", "x".repeat(max + 1), false),
        ("U+0000", "a\0b".to_owned(), false),
        ("too long, with U+0000", "\0".repeat(max + 1), false),
    ]
}

/// Texts for a field of at most `max` bytes.
pub fn bytes(max: usize) -> Values<String> {
    vec![
        ("empty", String::new(), true),
        ("as many bytes as allowed", "🐘".repeat(max / 4), true),
        ("one byte more", "🐘".repeat(max / 4) + "x", false),
        ("U+0000", "a\0b".to_owned(), false),
    ]
}

/// Texts for a field that holds a UUID.
pub fn uuids() -> Values<String> {
    let simple = UNKNOWN_ID.replace('-', "");
    vec![
        ("upper case", UNKNOWN_ID.to_uppercase(), true),
        ("empty", String::new(), false),
        ("a word", "spirit".to_owned(), false),
        ("without hyphens", simple.clone(), false),
        ("in braces", format!("{{{UNKNOWN_ID}}}"), false),
        (
            "in braces, as long as a valid one",
            format!("{{{simple}}}  "),
            false,
        ),
        ("a URN", format!("urn:uuid:{UNKNOWN_ID}"), false),
        ("one digit short", UNKNOWN_ID[1..].to_owned(), false),
        (
            "a letter that is not a hex digit",
            UNKNOWN_ID.replace('a', "g"),
            false,
        ),
        (
            "misplaced hyphens",
            format!("0189-{}", UNKNOWN_ID[4..].replacen('-', "", 1)),
            false,
        ),
        ("a space before", format!(" {UNKNOWN_ID}"), false),
        ("U+0000", UNKNOWN_ID.replace('a', "\0"), false),
    ]
}

/// Timestamps around the limits of years 1 to 9999.
pub fn times() -> Values<Timestamp> {
    let time = |seconds, nanos| Timestamp { seconds, nanos };
    vec![
        ("the first instant of year 1", time(FIRST_SECOND, 0), true),
        (
            "the last instant of year 0",
            time(FIRST_SECOND - 1, 999_999_999),
            false,
        ),
        (
            "the last instant of year 9999",
            time(LAST_SECOND, 999_999_999),
            true,
        ),
        ("the first instant of year 10000", time(LAST_SECOND + 1, 0), false),
        ("nanos below 0", time(0, -1), false),
        ("nanos of a whole second", time(0, 1_000_000_000), false),
        ("the smallest second", time(i64::MIN, 0), false),
        ("the greatest second", time(i64::MAX, 0), false),
    ]
}

/// Numbers around the limits of a score, 0 to 1.
pub fn scores() -> Values<f64> {
    vec![
        ("0", 0.0, true),
        ("1", 1.0, true),
        ("-0.1", -0.1, false),
        ("1.1", 1.1, false),
        ("just below 0", -f64::MIN_POSITIVE, false),
        ("just above 1", 1.0_f64.next_up(), false),
        ("NaN", f64::NAN, false),
        ("Infinity", f64::INFINITY, false),
        ("-Infinity", f64::NEG_INFINITY, false),
    ]
}

/// Numbers for an enum field whose last value is `last`.
pub fn enums(last: i32) -> Values<i32> {
    vec![
        ("unspecified", 0, true),
        ("the last known value", last, true),
        ("the next value", last + 1, false),
        ("below 0", -1, false),
        ("the greatest number", i32::MAX, false),
    ]
}

/// Numbers for a field of at least `min`; `lowest` is the lowest number of the type.
pub fn at_least<N: From<i8> + std::ops::Sub<Output = N> + Copy>(min: N, lowest: N) -> Values<N> {
    vec![
        ("the minimum", min, true),
        ("one below the minimum", min - N::from(1), false),
        ("the lowest number", lowest, false),
    ]
}

/// Numbers for `page_size`.
pub fn page_sizes() -> Values<i32> {
    vec![
        ("1", 1, true),
        ("200", 200, true),
        ("201", 201, false),
        ("-1", -1, false),
        ("the lowest number", i32::MIN, false),
    ]
}

/// Lists for a repeated field of a filter.
pub fn lists() -> Values<Vec<String>> {
    vec![
        ("no value", vec![], true),
        ("100 values", (0..100).map(|n| n.to_string()).collect(), true),
        ("101 values", (0..101).map(|n| n.to_string()).collect(), false),
    ]
}

/// `{"k":"…"}` that has this many bytes as compact JSON, most of them in escapes.
pub fn meta_of_bytes(bytes: usize) -> Struct {
    const ENVELOPE_BYTES: usize = r#"{"k":""}"#.len();
    const UNIT: &str = "\u{1}\"\n\\é🐘"; // 6 + 2 + 2 + 2 + 2 + 4 bytes
    const UNIT_BYTES: usize = 18;
    let inner = bytes - ENVELOPE_BYTES;
    let filler = UNIT.repeat(inner / UNIT_BYTES) + &"x".repeat(inner % UNIT_BYTES);
    object([("k", text(&filler))])
}

/// Nested objects with this many levels, including the outermost.
pub fn nested_objects(levels: usize) -> Struct {
    (1..levels).fold(object([]), |inner, _| {
        object([("k", value(Kind::StructValue(inner)))])
    })
}

/// An object that holds nested lists, with this many levels including the object.
pub fn nested_lists(levels: usize) -> Struct {
    let innermost = list_of(vec![]);
    let lists = (2..levels).fold(innermost, |inner, _| list_of(vec![inner]));
    object([("k", lists)])
}

pub fn list_of(values: Vec<Value>) -> Value {
    value(Kind::ListValue(ListValue { values }))
}

pub fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

/// Objects around the limits of `meta`.
pub fn metas() -> Values<Struct> {
    let in_list = |value: Value| object([("k", list_of(vec![number(1.0), value]))]);
    let greatest = |count| object([("k", list_of(vec![number(1e308); count]))]);
    let wide = (0..5_000).map(|n| (format!("{n:04}"), number(1.0))).collect();
    let null = value(Kind::NullValue(NullValue::NullValue.into()));
    vec![
        ("empty", object([]), true),
        (
            "an empty key, null and false",
            object([("", null), ("b", value(Kind::BoolValue(false)))]),
            true,
        ),
        ("as many bytes as allowed", meta_of_bytes(META_BYTES_MAX), true),
        ("one byte more", meta_of_bytes(META_BYTES_MAX + 1), false),
        ("211 numbers of 309 digits", greatest(211), true),
        ("212 numbers of 309 digits", greatest(212), false),
        ("5,000 keys", Struct { fields: wide }, true),
        ("24 levels of objects", nested_objects(24), true),
        ("25 levels of objects", nested_objects(25), false),
        ("24 levels of lists", nested_lists(24), true),
        ("25 levels of lists", nested_lists(25), false),
        (
            "the greatest and the smallest numbers",
            in_list(list_of(vec![number(f64::MAX), number(5e-324)])),
            true,
        ),
        ("NaN", object([("k", number(f64::NAN))]), false),
        ("Infinity in a list", in_list(number(f64::INFINITY)), false),
        ("-Infinity", object([("k", number(f64::NEG_INFINITY))]), false),
        (
            "a value without a kind",
            object([("k", Value { kind: None })]),
            false,
        ),
        (
            "a value without a kind in a list",
            in_list(Value { kind: None }),
            false,
        ),
        (
            "an unknown number of the null enum",
            object([("k", value(Kind::NullValue(1)))]),
            false,
        ),
        ("U+0000 in a key", object([("a\0b", number(1.0))]), false),
        ("U+0000 in a value", object([("k", text("a\0b"))]), false),
        (
            "U+0000 deep inside",
            in_list(value(Kind::StructValue(object([("\0", number(1.0))])))),
            false,
        ),
    ]
}
