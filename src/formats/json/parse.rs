//! Parses JSON text.

use std::collections::HashSet;

use super::{Fields, Json};

/// Maximum depth of nested objects and arrays.
const LEVELS_MAX: usize = 128;

/// An error in JSON text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} at byte {offset}")]
pub struct ParseError {
    message: String,
    offset: usize,
}

pub(super) fn parse(text: &str) -> Result<Json, ParseError> {
    let mut parser = Parser { text, offset: 0 };
    let value = parser.value(0)?;
    parser.skip_space();
    match parser.peek() {
        None => Ok(value),
        Some(_) => Err(parser.error("characters after the JSON value")),
    }
}

struct Parser<'a> {
    text: &'a str,
    offset: usize,
}

impl Parser<'_> {
    fn value(&mut self, level: usize) -> Result<Json, ParseError> {
        self.skip_space();
        match self.peek() {
            None => Err(self.error("the JSON ends early")),
            Some(b'{' | b'[') if level == LEVELS_MAX => Err(self.error("the JSON is nested too deeply")),
            Some(b'{') => self.object(level + 1),
            Some(b'[') => self.array(level + 1),
            Some(b'"') => self.string().map(Json::String),
            Some(b'-' | b'0'..=b'9') => self.number().map(Json::Number),
            Some(_) => self.literal(),
        }
    }

    fn object(&mut self, level: usize) -> Result<Json, ParseError> {
        self.offset += 1;
        let mut fields = Fields::default();
        let mut names = HashSet::new();
        if self.next_is(b'}') {
            return Ok(Json::Object(fields));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(self.error("expected the name of a field"));
            }
            let name = self.string()?;
            if !names.insert(name.clone()) {
                return Err(self.error(format!("duplicate field {name:?}")));
            }
            if !self.next_is(b':') {
                return Err(self.error("expected a colon"));
            }
            let value = self.value(level)?;
            fields.push(name, value);
            if self.next_is(b'}') {
                return Ok(Json::Object(fields));
            }
            if !self.next_is(b',') {
                return Err(self.error("expected a comma or the end of the object"));
            }
        }
    }

    fn array(&mut self, level: usize) -> Result<Json, ParseError> {
        self.offset += 1;
        let mut items = Vec::new();
        if self.next_is(b']') {
            return Ok(Json::Array(items));
        }
        loop {
            items.push(self.value(level)?);
            if self.next_is(b']') {
                return Ok(Json::Array(items));
            }
            if !self.next_is(b',') {
                return Err(self.error("expected a comma or the end of the array"));
            }
        }
    }

    fn string(&mut self) -> Result<String, ParseError> {
        let rest = &self.text.as_bytes()[self.offset..];
        let mut length = 1;
        loop {
            match rest.get(length) {
                None => return Err(self.error("a string does not end")),
                Some(b'"') => break,
                Some(b'\\') => length += 2,
                Some(_) => length += 1,
            }
        }
        let token = &self.text[self.offset..=self.offset + length];
        let text = serde_json::from_str(token).map_err(|error| {
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or_default();
            self.error(message)
        })?;
        self.offset += length + 1;
        Ok(text)
    }

    fn number(&mut self) -> Result<String, ParseError> {
        let rest = &self.text[self.offset..];
        let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let length = rest
            .bytes()
            .position(|byte| !is_part(&byte))
            .unwrap_or(rest.len());
        let token = &rest[..length];
        if !is_number(token.as_bytes()) {
            return Err(self.error(format!("{token} is not a number")));
        }
        self.offset += length;
        Ok(token.to_owned())
    }

    fn literal(&mut self) -> Result<Json, ParseError> {
        let rest = &self.text[self.offset..];
        let literals = [
            ("null", Json::Null),
            ("true", Json::Bool(true)),
            ("false", Json::Bool(false)),
        ];
        for (word, value) in literals {
            if rest.starts_with(word) {
                self.offset += word.len();
                return Ok(value);
            }
        }
        Err(self.error("expected a JSON value"))
    }

    /// Consumes the next character that is no white space if it is `byte`.
    fn next_is(&mut self, byte: u8) -> bool {
        self.skip_space();
        let is_next = self.peek() == Some(byte);
        self.offset += usize::from(is_next);
        is_next
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.offset += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.offset).copied()
    }

    fn error(&self, message: impl Into<String>) -> ParseError {
        ParseError {
            message: message.into(),
            offset: self.offset,
        }
    }
}

/// Returns whether the bytes are a number by the grammar of RFC 8259.
fn is_number(token: &[u8]) -> bool {
    let digits = |bytes: &[u8]| bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let rest = token.strip_prefix(b"-").unwrap_or(token);
    let integer = digits(rest);
    if integer == 0 || (integer > 1 && rest[0] == b'0') {
        return false;
    }
    let mut rest = &rest[integer..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let length = digits(fraction);
        if length == 0 {
            return false;
        }
        rest = &fraction[length..];
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = exponent
            .strip_prefix(b"+")
            .or(exponent.strip_prefix(b"-"))
            .unwrap_or(exponent);
        return !exponent.is_empty() && digits(exponent) == exponent.len();
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn values_are_printed_as_they_were_written() {
        for text in [
            r#"{"b":[1,-0.50,1e+400,12345678901234567890],"a":{"x":null,"y":[true,false,{}]}}"#,
            r#""\"\\\n ü \u0001""#,
            "[]",
        ] {
            assert_eq!(parse(text).expect("valid").to_string(), text);
        }
        assert_eq!(parse(" [ 1 ,\r\n\t2 ] ").expect("valid").to_string(), "[1,2]");
    }

    #[test]
    fn errors_name_the_fault_and_its_place() {
        for (text, message) in [
            ("", "ends early at byte 0"),
            ("{} x", "characters after the JSON value at byte 3"),
            (r#"{"a":1,"a":2}"#, "duplicate field \"a\""),
            ("[01]", "01 is not a number"),
            ("[1.]", "1. is not a number"),
            ("[1e]", "1e is not a number"),
            (r#"["\ud800"]"#, "hex escape"),
            (r#"{"a" 1}"#, "expected a colon"),
            ("[1 2]", "expected a comma"),
            ("{1:2}", "name of a field"),
            ("\"a", "does not end"),
            ("nul", "expected a JSON value"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
        assert!(parse(&"[".repeat(100_000)).is_err());
    }
}
