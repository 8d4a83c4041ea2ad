//! Requests with one field at a time at its bound and past it.

use std::fmt::Debug;

use prost_types::{ListValue, NullValue, Struct, Timestamp, Value, value::Kind};
use tonic::{Code, Status};

use crate::support::builders::{bad_fields, number, object, text};

pub const UNKNOWN: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
pub const META_BYTES_MAX: usize = 64 * 1024;
/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
const FIRST_SECOND: i64 = -62_135_596_800;
const LAST_SECOND: i64 = 253_402_300_799;

/// Values of a field, what each is, and whether the contract accepts it.
pub type Values<V> = Vec<(&'static str, V, bool)>;

/// A request that is good, and changes to it of which each is tried by itself.
pub struct Probe<R> {
    base: R,
    cases: Vec<(String, R, Vec<&'static str>)>,
}

impl<R: Clone + Debug> Probe<R> {
    pub fn new(base: R) -> Self {
        let cases = vec![(
            "the request that the others start from".to_owned(),
            base.clone(),
            vec![],
        )];
        Self { base, cases }
    }

    /// Tries each of the values; `field` is what must be named when one is refused.
    pub fn field<V>(mut self, field: &'static str, values: Values<V>, set: impl Fn(&mut R, V)) -> Self {
        for (what, value, accepted) in values {
            let mut request = self.base.clone();
            set(&mut request, value);
            let bad = if accepted { vec![] } else { vec![field] };
            self.cases.push((format!("{field}: {what}"), request, bad));
        }
        self
    }

    /// Tries one change, after which these fields are bad.
    pub fn case(mut self, what: &str, bad: &[&'static str], change: impl Fn(&mut R)) -> Self {
        let mut request = self.base.clone();
        change(&mut request);
        self.cases.push((what.to_owned(), request, bad.to_vec()));
        self
    }

    pub async fn run(self, mut call: impl AsyncFnMut(R) -> Result<(), Status>) {
        for (what, request, bad) in self.cases {
            let answer = match call(request).await {
                // Fields are checked before anything is looked up.
                Ok(()) => vec![],
                Err(status) if status.code() == Code::NotFound => vec![],
                refused => {
                    if let Err(status) = &refused {
                        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status:?}");
                    }
                    bad_fields(refused)
                }
            };
            assert_eq!(answer, bad, "{what}");
        }
    }
}

/// Texts of 1 to `max` code points.
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

/// Texts of at most `max` bytes.
pub fn bytes(max: usize) -> Values<String> {
    vec![
        ("empty", String::new(), true),
        ("as many bytes as allowed", "🐘".repeat(max / 4), true),
        ("one byte more", "🐘".repeat(max / 4) + "x", false),
        ("U+0000", "a\0b".to_owned(), false),
    ]
}

pub fn uuids() -> Values<String> {
    let simple = UNKNOWN.replace('-', "");
    vec![
        ("upper case", UNKNOWN.to_uppercase(), true),
        ("empty", String::new(), false),
        ("a word", "spirit".to_owned(), false),
        ("without hyphens", simple.clone(), false),
        ("in braces", format!("{{{UNKNOWN}}}"), false),
        (
            "in braces, as long as a good one",
            format!("{{{simple}}}  "),
            false,
        ),
        ("a URN", format!("urn:uuid:{UNKNOWN}"), false),
        ("a digit short", UNKNOWN[1..].to_owned(), false),
        ("a letter that is no digit", UNKNOWN.replace('a', "g"), false),
        (
            "hyphens elsewhere",
            format!("0189-{}", UNKNOWN[4..].replacen('-', "", 1)),
            false,
        ),
        ("a space before", format!(" {UNKNOWN}"), false),
        ("U+0000", UNKNOWN.replace('a', "\0"), false),
    ]
}

pub fn times() -> Values<Timestamp> {
    let time = |seconds, nanos| Timestamp { seconds, nanos };
    vec![
        ("the first of year 1", time(FIRST_SECOND, 0), true),
        ("the last of year 0", time(FIRST_SECOND - 1, 999_999_999), false),
        ("the last of year 9999", time(LAST_SECOND, 999_999_999), true),
        ("the first of year 10000", time(LAST_SECOND + 1, 0), false),
        ("nanos below 0", time(0, -1), false),
        ("nanos of a whole second", time(0, 1_000_000_000), false),
        ("the smallest second", time(i64::MIN, 0), false),
        ("the greatest second", time(i64::MAX, 0), false),
    ]
}

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

/// Numbers of an enum whose last value is `last`.
pub fn enums(last: i32) -> Values<i32> {
    vec![
        ("unspecified", 0, true),
        ("the last known", last, true),
        ("the next", last + 1, false),
        ("below 0", -1, false),
        ("far away", i32::MAX, false),
    ]
}

/// Numbers of at least `min`.
pub fn at_least<N: From<i8> + std::ops::Sub<Output = N> + Copy>(min: N, lowest: N) -> Values<N> {
    vec![
        ("the least", min, true),
        ("one less", min - N::from(1), false),
        ("the lowest there is", lowest, false),
    ]
}

pub fn page_sizes() -> Values<i32> {
    vec![
        ("1", 1, true),
        ("200", 200, true),
        ("201", 201, false),
        ("-1", -1, false),
        ("the lowest there is", i32::MIN, false),
    ]
}

/// Lists of a filter.
pub fn lists() -> Values<Vec<String>> {
    vec![
        ("no value", vec![], true),
        ("100 values", (0..100).map(|n| n.to_string()).collect(), true),
        ("101 values", (0..101).map(|n| n.to_string()).collect(), false),
    ]
}

/// `{"k":"…"}` of this many bytes as compact JSON, of which most are escapes.
pub fn meta_of_bytes(bytes: usize) -> Struct {
    const AROUND: usize = r#"{"k":""}"#.len();
    const UNIT: &str = "\u{1}\"\n\\é🐘"; // 6 + 2 + 2 + 2 + 2 + 4 bytes
    const UNIT_BYTES: usize = 18;
    let inner = bytes - AROUND;
    let filling = UNIT.repeat(inner / UNIT_BYTES) + &"x".repeat(inner % UNIT_BYTES);
    object([("k", text(&filling))])
}

/// Objects in objects, the outermost counted.
pub fn nested_objects(levels: usize) -> Struct {
    (1..levels).fold(object([]), |inner, _| {
        object([("k", value(Kind::StructValue(inner)))])
    })
}

/// An object of lists in lists, the object counted.
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

/// Objects under the bounds of `meta`.
pub fn metas() -> Values<Struct> {
    let in_list = |value: Value| object([("k", list_of(vec![number(1.0), value]))]);
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
        ("5,000 keys", Struct { fields: wide }, true),
        ("24 levels of objects", nested_objects(24), true),
        ("25 levels of objects", nested_objects(25), false),
        ("24 levels, of lists", nested_lists(24), true),
        ("25 levels, of lists", nested_lists(25), false),
        (
            "great and small numbers",
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
            "a null that the enum does not know",
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
