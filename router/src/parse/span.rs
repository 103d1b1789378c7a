//! Where a JSON value ends.

/// Finds the end of a string, an object or a list, whose characters come one by one.
///
/// It counts brackets and quotes and judges nothing else: of a value that is not quite JSON the end
/// is found as well.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span {
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

impl Span {
    /// Takes the next character. Whether it is the value's last.
    pub(super) fn push(&mut self, c: char) -> bool {
        if self.in_string {
            match c {
                _ if self.is_escaped => self.is_escaped = false,
                '\\' => self.is_escaped = true,
                '"' => self.in_string = false,
                _ => {}
            }
            return !self.in_string && self.depth == 0;
        }
        match c {
            '"' => self.in_string = true,
            '{' | '[' => self.depth += 1,
            '}' | ']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }

    /// Whether what comes next is inside a string.
    pub(super) fn in_string(&self) -> bool {
        self.in_string
    }
}
