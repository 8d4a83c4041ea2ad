//! The structure of a JSON text: where its values end, and which whitespace is part of none.

/// Follows brackets and strings of a JSON text.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scan {
    /// A byte was taken.
    started: bool,
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// The outermost object or array is closed.
    pub(super) ended: bool,
}

impl Scan {
    /// Returns true if the value has ended before this byte, which belongs to what encloses it.
    pub(super) fn ends_before(&self, byte: u8) -> bool {
        let is_outside = self.started && self.depth == 0 && !self.in_string;
        is_outside && (matches!(byte, b',' | b']' | b'}') || byte.is_ascii_whitespace())
    }

    /// Takes a byte. Returns false if it is whitespace between tokens.
    pub(super) fn keeps(&mut self, byte: u8) -> bool {
        self.started = true;
        if self.in_string {
            self.in_string = byte != b'"' || self.escaped;
            self.escaped = byte == b'\\' && !self.escaped;
            return true;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.ended = self.depth == 0;
            }
            _ => return !byte.is_ascii_whitespace(),
        }
        true
    }

    /// Returns true within an object or array, outside of its strings.
    pub(super) fn is_between_tokens(self) -> bool {
        self.depth > 0 && !self.in_string
    }
}
