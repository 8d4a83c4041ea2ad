//! Splits a text into the JSON texts of its events: lines, the elements of an array, or values over several lines.

use std::io::{self, BufRead};

use super::fault::Position;
use super::scan::Scan;

/// Bytes above which a record is large: it is read on only when no other line is in memory.
pub(super) const LARGE_BYTES: usize = 1024 * 1024;
/// Bytes that are reserved for a large record at once. A buffer that grows by doubling leaves its predecessors behind as
/// resident memory; reserved memory that is not written takes none.
const LARGE_RESERVE: usize = 32 * 1024 * 1024;
/// Bytes above which a record is skipped. A message of 64 MiB, more than a server decodes, is not longer if each of its
/// bytes is escaped.
const RECORD_BYTES_MAX: usize = 6 * 64 * 1024 * 1024;

/// The result of a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A record, which [`Splitter::take`] returns.
    Record(Position),
    /// The record exceeds [`LARGE_BYTES`]; the next step continues with it.
    Large,
    /// A record that was skipped because it is longer than any event.
    TooLong(Position),
    /// The end of a text that ends where it should.
    End,
    /// The end of a text that goes on behind its end, or ends too early.
    Broken(&'static str),
}

/// The arrangement of records in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// A record a line.
    Lines,
    /// The elements of an array.
    Array,
    /// One value after another, each over any number of lines.
    Values,
}

/// Reads records one after another. Only one record is in memory.
pub(super) struct Splitter<R> {
    input: R,
    /// `None` before the first record.
    layout: Option<Layout>,
    record: Vec<u8>,
    /// Position of the record that is being read.
    position: Option<Position>,
    scan: Scan,
    /// Line of the next byte.
    line: u64,
    elements: u64,
    /// The current record is longer than [`RECORD_BYTES_MAX`] and is not kept.
    skipping: bool,
    /// [`Step::Large`] was returned for the current record.
    large: bool,
    /// The closing bracket of an array was read.
    closed: bool,
}

impl<R: BufRead> Splitter<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            layout: None,
            record: Vec::new(),
            position: None,
            scan: Scan::default(),
            line: 1,
            elements: 0,
            skipping: false,
            large: false,
            closed: false,
        }
    }

    /// Returns the record of the last step. Values over several lines and elements of arrays are compact JSON.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.record)
    }

    /// Reads on to the end of the next record.
    pub(super) fn step(&mut self) -> io::Result<Step> {
        match self.layout {
            None => self.first(),
            Some(Layout::Lines) => self.line(),
            Some(layout) => self.value(layout),
        }
    }

    /// Determines the layout. A text that begins with `[` is an array; one whose first line is incomplete at the end
    /// of a token has values over several lines. A following line that begins with a bracket is indented then, since it
    /// may be a record of its own otherwise.
    fn first(&mut self) -> io::Result<Step> {
        let Some(byte) = self.skip_whitespace(|_| false)? else {
            return Ok(Step::End);
        };
        if byte == b'[' {
            self.input.consume(1);
            self.layout = Some(Layout::Array);
            return self.step();
        }
        let step = self.line()?;
        let Step::Record(position) = step else {
            self.layout = Some(Layout::Lines);
            return Ok(step);
        };
        let mut scan = Scan::default();
        let compact: Vec<u8> = self.record.iter().copied().filter(|b| scan.keeps(*b)).collect();
        if scan.is_between_tokens() && self.goes_on()? {
            self.layout = Some(Layout::Values);
            self.record = compact;
            self.scan = scan;
            self.elements = 1;
            self.position = Some(Position {
                element: Some(1),
                ..position
            });
            return self.step();
        }
        self.layout = Some(Layout::Lines);
        Ok(step)
    }

    /// Skips whitespace and returns whether the incomplete first line goes on after it.
    fn goes_on(&mut self) -> io::Result<bool> {
        let is_indented = matches!(self.input.fill_buf()?.first(), Some(b' ' | b'\t'));
        Ok(match self.skip_whitespace(|_| false)? {
            Some(b'"' | b'}') => true,
            Some(b'{' | b'[') => is_indented,
            _ => false,
        })
    }

    fn line(&mut self) -> io::Result<Step> {
        let position = *self.position.get_or_insert(Position {
            line: self.line,
            element: None,
        });
        loop {
            let chunk = self.input.fill_buf()?;
            let end = chunk.iter().position(|b| *b == b'\n');
            let is_end = chunk.is_empty() || end.is_some();
            let len = end.unwrap_or(chunk.len());
            if !self.skipping {
                self.record.extend_from_slice(&chunk[..len]);
            }
            self.input.consume(len + usize::from(end.is_some()));
            if is_end {
                self.line += 1;
                if end.is_none() && len == 0 && self.record.is_empty() && !self.skipping {
                    return Ok(Step::End);
                }
                return Ok(self.end_record(position));
            }
            if let Some(step) = self.check_size() {
                return Ok(step);
            }
        }
    }

    /// Reads the next value of an array or of a sequence of values.
    fn value(&mut self, layout: Layout) -> io::Result<Step> {
        let position = match self.position {
            Some(position) => position,
            None => match self.begin_value(layout)? {
                Ok(position) => position,
                Err(step) => return Ok(step),
            },
        };
        loop {
            let chunk = self.input.fill_buf()?;
            let (record, scan) = (&mut self.record, &mut self.scan);
            let mut read = 0;
            let mut ended = chunk.is_empty();
            for byte in chunk {
                if scan.ends_before(*byte) {
                    ended = true;
                    break;
                }
                read += 1;
                self.line += u64::from(*byte == b'\n');
                if scan.keeps(*byte) && !self.skipping {
                    record.push(*byte);
                }
                if scan.ended {
                    ended = true;
                    break;
                }
            }
            self.closed |= chunk.is_empty(); // the record is incomplete, which its parser reports
            self.input.consume(read);
            if ended {
                return Ok(self.end_record(position));
            }
            if let Some(step) = self.check_size() {
                return Ok(step);
            }
        }
    }

    /// Moves to the first byte of the next value. The inner error is the step at the end of all values.
    fn begin_value(&mut self, layout: Layout) -> io::Result<Result<Position, Step>> {
        let is_array = layout == Layout::Array;
        let next = self.skip_whitespace(|byte| is_array && byte == b',')?;
        let step = match next {
            None if is_array && !self.closed => {
                Step::Broken("the array is not closed; the file may be incomplete")
            }
            None => Step::End,
            Some(_) if self.closed => {
                Step::Broken("there is text after the end of the array, which is not read")
            }
            Some(b']') if is_array => {
                self.closed = true;
                self.input.consume(1);
                return self.begin_value(layout);
            }
            Some(_) => {
                self.elements += 1;
                let position = Position {
                    line: self.line,
                    element: Some(self.elements),
                };
                self.position = Some(position);
                self.scan = Scan::default();
                return Ok(Ok(position));
            }
        };
        Ok(Err(step))
    }

    /// Consumes whitespace and separators, and returns the byte that follows.
    fn skip_whitespace(&mut self, is_separator: impl Fn(u8) -> bool) -> io::Result<Option<u8>> {
        loop {
            let chunk = self.input.fill_buf()?;
            if chunk.is_empty() {
                return Ok(None);
            }
            let skipped = chunk
                .iter()
                .position(|b| !b.is_ascii_whitespace() && !is_separator(*b));
            let len = skipped.unwrap_or(chunk.len());
            self.line += chunk[..len].iter().map(|b| u64::from(*b == b'\n')).sum::<u64>();
            let next = skipped.map(|at| chunk[at]);
            self.input.consume(len);
            if next.is_some() {
                return Ok(next);
            }
        }
    }

    fn check_size(&mut self) -> Option<Step> {
        if self.record.len() > RECORD_BYTES_MAX {
            self.skipping = true;
            self.record = Vec::new();
        } else if self.record.len() > LARGE_BYTES && !self.large {
            self.large = true;
            // Text that cannot become an event is not kept.
            self.skipping = self.record.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{');
            if self.skipping {
                self.record = Vec::new();
                return None;
            }
            self.record.reserve(LARGE_RESERVE);
            return Some(Step::Large);
        }
        None
    }

    fn end_record(&mut self, position: Position) -> Step {
        self.position = None;
        self.large = false;
        if std::mem::take(&mut self.skipping) {
            Step::TooLong(position)
        } else {
            Step::Record(position)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    /// The records with their positions, and the last step. The input arrives in chunks of each size from 1.
    fn split(text: &str) -> (Vec<String>, Step) {
        let results = [1, 2, 3, 7, 4_096].map(|capacity| {
            let mut splitter = Splitter::new(BufReader::with_capacity(capacity, text.as_bytes()));
            let mut records = Vec::new();
            loop {
                match splitter.step().expect("no I/O") {
                    Step::Record(at) => {
                        let record = String::from_utf8(splitter.take()).expect("UTF-8");
                        records.push(format!("{at}: {record}"));
                    }
                    Step::Large => {}
                    end => return (records, end),
                }
            }
        });
        let [first, rest @ ..] = results;
        assert!(
            rest.iter().all(|result| *result == first),
            "depends on chunks: {text}"
        );
        first
    }

    #[test]
    fn lines_are_records() {
        let (records, end) = split("{\"a\":1}\n\n {\"b\": 2}\r\nx\n[\n{");
        let expected = [
            "line 1: {\"a\":1}",
            "line 2: ",
            "line 3:  {\"b\": 2}\r",
            "line 4: x",
            "line 5: [",
            "line 6: {",
        ];
        assert_eq!((records, end), (expected.map(String::from).to_vec(), Step::End));
        let (truncated, _) = split("{\"a\": 1, \"b\": \"cut\n{\"a\": 1}\n");
        assert_eq!(truncated.len(), 2, "{truncated:?}");
        assert_eq!(split("").1, Step::End);
    }

    #[test]
    fn a_value_goes_on_with_an_indented_bracket() {
        let (records, end) = split("{\"a\": [\n  {\"b\": 1},\n{}\n]}\n{}\n");
        assert_eq!(
            records,
            [
                "element 1 (line 1): {\"a\":[{\"b\":1},{}]}",
                "element 2 (line 5): {}"
            ]
        );
        assert_eq!(end, Step::End);
        let (truncated, _) = split("{\"a\": [\n{\"b\": 1}\n");
        assert_eq!(truncated.len(), 2, "{truncated:?}");
    }

    #[test]
    fn elements_of_an_array_are_records_in_compact_form() {
        let text = "\n[ {\"a\": \"x ] \\\" y\",\n \"b\": [1, {}]} ,\n 5,\"s\"\n]\n";
        let expected = [
            "element 1 (line 2): {\"a\":\"x ] \\\" y\",\"b\":[1,{}]}",
            "element 2 (line 4): 5",
            "element 3 (line 4): \"s\"",
        ];
        assert_eq!(split(text), (expected.map(String::from).to_vec(), Step::End));
        assert_eq!(split("[]"), (Vec::new(), Step::End));
        assert!(matches!(split("[{}, {}").1, Step::Broken(_)));
        assert!(matches!(split("[{}] {}").1, Step::Broken(_)));
        let (cut, end) = split("[{}, {\"a\": [");
        assert_eq!((cut.len(), end), (2, Step::End));
    }

    #[test]
    fn values_over_several_lines_are_records() {
        let text = "{\n  \"a\": 1\n}\n{\n  \"a\": {\n    \"b\": \"}\"\n  }\n}\n";
        let expected = [
            "element 1 (line 1): {\"a\":1}",
            "element 2 (line 4): {\"a\":{\"b\":\"}\"}}",
        ];
        assert_eq!(split(text), (expected.map(String::from).to_vec(), Step::End));
    }

    #[test]
    fn large_records_are_announced_and_text_that_is_no_event_is_not_kept() {
        let event = format!("{{\"a\":\"{}\"}}", "x".repeat(2 * LARGE_BYTES));
        let text = format!("{event}\n{}\n{{}}\n", "y".repeat(2 * LARGE_BYTES));
        let mut splitter = Splitter::new(BufReader::new(text.as_bytes()));
        let at = |line| Position { line, element: None };
        let mut expect = |step| assert_eq!(splitter.step().expect("no I/O"), step);
        expect(Step::Large);
        expect(Step::Record(at(1)));
        assert_eq!(splitter.take().len(), event.len());
        let mut expect = |step| assert_eq!(splitter.step().expect("no I/O"), step);
        expect(Step::TooLong(at(2)));
        expect(Step::Record(at(3)));
        assert_eq!(splitter.take(), b"{}");
    }
}
