//! Rules for the SQL/JSON paths of filters that PostgreSQL does not check itself: a path is a predicate, is nested at most
//! [`JSON_PATH_LEVELS_MAX`] levels deep, has no regular expression and no variable, and its evaluation needs a bounded amount of memory.
//!
//! PostgreSQL decides what a path is. The rules apply to the form in which it prints a path that it has parsed: keys,
//! variables and strings in quotes, keywords in lower case, and a binary operator in parentheses unless its precedence
//! makes them superfluous.

use super::limits::{JSON_PATH_FAN_OUT_MAX, JSON_PATH_LEVELS_MAX, META_LEVELS_MAX};

/// Values that `.keyvalue()` returns for each value that an earlier one has returned: objects of three keys.
const KEY_VALUE_FAN_OUT: usize = 3;

/// A rule that a path breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathRule {
    #[error("must be nested at most {JSON_PATH_LEVELS_MAX} levels deep, is nested {0} levels deep")]
    Levels(usize),
    #[error("must not use like_regex")]
    LikeRegex,
    #[error("must not use variables, since none have values")]
    Variable,
    #[error("must be a predicate, such as $.n >= 3 or exists($.a)")]
    NotAPredicate,
    #[error(
        "must not select so many values: a condition may multiply them by {JSON_PATH_FAN_OUT_MAX}, where ** counts \
         {META_LEVELS_MAX}, .keyvalue() {KEY_VALUE_FAN_OUT}, and a list of subscripts its length"
    )]
    FanOut,
    #[error("must be at most 16 KiB long with its numbers written out")]
    Digits,
}

/// Checks the nesting of a path in any form, so that PostgreSQL can parse it without a deep stack.
pub fn check_levels(path: &str) -> Result<(), PathRule> {
    let mut level = 0_usize;
    let mut deepest = 0;
    for character in without_texts(path).chars() {
        match character {
            '(' | '[' | '{' => level += 1,
            ')' | ']' | '}' => level = level.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(level);
    }
    if deepest > JSON_PATH_LEVELS_MAX {
        return Err(PathRule::Levels(deepest));
    }
    Ok(())
}

/// Checks a path in the form in which PostgreSQL prints it.
pub fn check_printed(path: &str) -> Result<(), PathRule> {
    check_levels(path)?;
    let path = without_texts(path);
    let path = path.strip_prefix("strict ").unwrap_or(&path);
    if path.contains(" like_regex ") {
        return Err(PathRule::LikeRegex);
    }
    if path.contains("$\"\"") {
        return Err(PathRule::Variable);
    }
    if !is_predicate(path) {
        return Err(PathRule::NotAPredicate);
    }
    if fan_out(path) > JSON_PATH_FAN_OUT_MAX {
        return Err(PathRule::FanOut);
    }
    Ok(())
}

/// Returns the path with each quoted text replaced by `""`, and without comments.
fn without_texts(path: &str) -> String {
    let mut rest = path.chars().peekable();
    let mut kept = String::with_capacity(path.len());
    while let Some(character) = rest.next() {
        match character {
            '"' => {
                kept.push_str("\"\"");
                while let Some(character) = rest.next().filter(|character| *character != '"') {
                    if character == '\\' {
                        rest.next();
                    }
                }
            }
            // An escape in a key without quotes.
            '\\' => {
                rest.next();
            }
            '/' if rest.peek() == Some(&'*') => {
                rest.next();
                while let Some(character) = rest.next() {
                    if character == '*' && rest.peek() == Some(&'/') {
                        rest.next();
                        break;
                    }
                }
            }
            other => kept.push(other),
        }
    }
    kept
}

/// Returns whether the outermost operation of a printed path is one whose result is true, false or unknown.
fn is_predicate(path: &str) -> bool {
    for start in ["!(", "exists ("] {
        if let Some(rest) = path.strip_prefix(start) {
            return closing(rest).is_some_and(|end| end + 1 == rest.len());
        }
    }
    let Some(rest) = path.strip_prefix('(') else {
        return false;
    };
    let Some(end) = closing(rest) else { return false };
    match &rest[end + 1..] {
        " is unknown" => true,
        "" => compares(&rest[..end]),
        _ => false,
    }
}

/// Returns the index of the parenthesis that closes the one before the text.
fn closing(text: &str) -> Option<usize> {
    let mut level = 0_usize;
    for (index, character) in text.char_indices() {
        match character {
            '(' | '[' | '{' => level += 1,
            ')' | ']' | '}' if level == 0 => return Some(index),
            ')' | ']' | '}' => level -= 1,
            _ => {}
        }
    }
    None
}

/// Returns whether an operation that is printed without its parentheses is a comparison, `&&`, `||` or `starts with`,
/// and not arithmetic. Operators in inner parentheses do not count.
fn compares(operation: &str) -> bool {
    let mut level = 0_usize;
    operation.char_indices().any(|(index, character)| {
        match character {
            '(' | '[' | '{' => level += 1,
            ')' | ']' | '}' => level = level.saturating_sub(1),
            '=' | '<' | '>' | '&' | '|' => return level == 0,
            ' ' => return level == 0 && operation[index..].starts_with(" starts with "),
            _ => {}
        }
        false
    })
}

/// A part of a path in brackets, or the whole.
struct Group {
    opening: char,
    /// Whether it is the condition of a filter, which selects among values and does not multiply them.
    is_filter: bool,
    /// The factor before the group.
    before: usize,
    /// The factor so far.
    factor: usize,
    /// Number of subscripts, if it is a list of them.
    subscripts: usize,
}

/// Returns the factor by which the path can multiply the values of `meta` at most. Memory is needed for all values that
/// an operand selects, and is released after the evaluation. Operands of `&&` and `||` do not multiply each other.
fn fan_out(path: &str) -> usize {
    let mut outer = Vec::new();
    let mut group = Group::new(' ', false, 1);
    let mut highest = 1;
    let mut previous = ' ';
    for (index, character) in path.char_indices() {
        let rest = &path[index..];
        match character {
            '(' | '[' | '{' => {
                let inner = Group::new(character, previous == '?', group.factor);
                outer.push(std::mem::replace(&mut group, inner));
            }
            ')' | ']' | '}' => {
                if let Some(outer) = outer.pop() {
                    group = group.end_in(outer);
                }
            }
            ',' if group.opening == '[' => group.subscripts += 1,
            '*' if rest.starts_with("**") => group.multiply(META_LEVELS_MAX),
            '.' if rest.starts_with(".keyvalue(") => group.multiply(KEY_VALUE_FAN_OUT),
            '&' | '|' => group.factor = group.before,
            _ => {}
        }
        highest = highest.max(group.factor);
        previous = character;
    }
    highest
}

impl Group {
    fn new(opening: char, is_filter: bool, factor: usize) -> Self {
        Self {
            opening,
            is_filter,
            before: factor,
            factor,
            subscripts: 1,
        }
    }

    fn multiply(&mut self, factor: usize) {
        self.factor = self.factor.saturating_mul(factor);
    }

    /// Returns the group around this one, after its end.
    fn end_in(self, mut outer: Self) -> Self {
        match self.opening {
            '[' => outer.multiply(self.subscripts),
            '(' if !self.is_filter => outer.factor = self.factor,
            _ => {}
        }
        outer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outermost_operation_of_a_printed_path_decides_whether_it_is_a_predicate() {
        for (path, is_predicate) in [
            (r#"($."a" == 1)"#, true),
            (r#"strict ($."a" == 1)"#, true),
            (r#"!($."a" == 1)"#, true),
            (r#"exists ($."a"?(@ == 1))"#, true),
            (r#"($."a" == 1) is unknown"#, true),
            (r#"($."a" starts with "x")"#, true),
            (r#"(($."a" == 1 || $."b" == 2) && $."c" == 3)"#, true),
            (r#"(exists ($."a") && !($."b" > 1))"#, true),
            (r#"($."a"[$."b" == 1.type()] != 2)"#, true),
            (r#"($."a)" == ")")"#, true),
            (r#"$."a""#, false),
            (r#"$."a == 1""#, false),
            (r#"($."a" + 1)"#, false),
            (r#"(-$."a")"#, false),
            (r#"$."a"?(@ == 1)"#, false),
            (r#"($."a" == 1).type()"#, false),
            (r#"(($."a" == 1).type() + 1)"#, false),
            (r#"($."a"[$."b" == 1.type()] + 1)"#, false),
            (r#"exists ($."a").type()"#, false),
            (r#"($."a" + " starts with ")"#, false),
            (r#""(1 == 1)""#, false),
            ("true", false),
            ("(", false),
            ("!(", false),
            ("", false),
        ] {
            let expected = if is_predicate {
                Ok(())
            } else {
                Err(PathRule::NotAPredicate)
            };
            assert_eq!(check_printed(path), expected, "{path}");
        }
    }

    #[test]
    fn regular_expressions_and_variables_are_refused_and_texts_that_name_them_are_not() {
        for (path, expected) in [
            (r#"($."a" like_regex "x")"#, Err(PathRule::LikeRegex)),
            (
                r#"exists ($."a"?(@ like_regex "x" flag "i"))"#,
                Err(PathRule::LikeRegex),
            ),
            (r#"($."like_regex" == " like_regex ")"#, Ok(())),
            (r#"($."a" == $"x")"#, Err(PathRule::Variable)),
            (r#"($."$x" == "$\"x\"")"#, Ok(())),
            (r#"($."a\" like_regex \"" == 1)"#, Ok(())),
        ] {
            assert_eq!(check_printed(path), expected, "{path}");
        }
    }

    #[test]
    fn brackets_in_texts_and_comments_are_not_levels() {
        let nested = |levels: usize| "(".repeat(levels) + "$" + &")".repeat(levels);
        for (path, expected) in [
            (nested(32), Ok(())),
            (nested(33), Err(PathRule::Levels(33))),
            (nested(1_000), Err(PathRule::Levels(1_000))),
            ("[({".repeat(11), Err(PathRule::Levels(33))),
            (format!(r#"$.a == "{}""#, "(".repeat(100)), Ok(())),
            (format!(r#"$.a == "\"{}""#, "(".repeat(100)), Ok(())),
            (format!("$.a /* \" {} */ == 1", "(".repeat(100)), Ok(())),
            (format!("$.a\\\" == {}", nested(33)), Err(PathRule::Levels(33))),
            ("$.a == \"\\".to_owned(), Ok(())),
            ("$.a /*".to_owned(), Ok(())),
        ] {
            assert_eq!(check_levels(&path), expected, "{path}");
        }
    }

    #[test]
    fn steps_that_multiply_values_are_counted_in_each_condition() {
        for (path, factor) in [
            (r#"($."a"[*] == 1 && $."b".* == 1)"#, 1),
            (r#"($."a"[0,1,2 to last] == 1)"#, 3),
            ("($.** == 1)", 24),
            (r#"($.**{2 to last}."a" == 1 || $.** == 2)"#, 24),
            ("(($.** == 1 || $.** == 2) && $.** == 3)", 24),
            ("(exists ($.**) && exists ($.**))", 24),
            ("($.**.** == 1)", 576),
            (r#"($.**?(@.** == 1 && @."a" == 2) == 1)"#, 576),
            (r#"($.**?(@."a" == 1 && @.** == 2) == 1)"#, 576),
            (r#"($.**?(@."a"[0,1] == 1)[0,1] == 1)"#, 48),
            ("($[0,0][0,0][0,0] == 1)", 8),
            ("($[$[0,0],0] == 1)", 2),
            ("((-$.**).** == 1)", 576),
            (r#"($.keyvalue().keyvalue()."value" == 1)"#, 9),
            (r#"($."**" == "[0,0]")"#, 1),
        ] {
            assert_eq!(fan_out(&without_texts(path)), factor, "{path}");
        }
        assert_eq!(check_printed("($.**.** == 1)"), Err(PathRule::FanOut));
        let many = format!("(${} == 1)", "[0,0]".repeat(190));
        assert_eq!(check_printed(&many), Err(PathRule::FanOut));
    }
}
