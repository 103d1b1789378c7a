//! The blocks that an answer's content is made of, one after the other: what the model thinks, what
//! it says, what it calls. Streamed or whole, an answer is the same steps.

use crate::generation::{CallDelta, Delta, FinishReason};

/// What happens to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    /// It begins.
    Start(Start<'a>),
    /// More of what the model thinks.
    Thinking(&'a str),
    /// More of what it says.
    Text(&'a str),
    /// More of a call's JSON.
    Input(&'a str),
    /// It is complete; if it is the last one, the answer has ended for this reason.
    Stop(Block, Option<FinishReason>),
}

/// How a block begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start<'a> {
    /// The model thinks.
    Thinking,
    /// It says something.
    Text,
    /// It calls a tool.
    ToolUse {
        /// The call's id.
        id: &'a str,
        /// The tool.
        name: &'a str,
    },
}

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    /// What the model thinks.
    Thinking,
    /// What it says.
    Text,
    /// Which of its calls.
    ToolUse(usize),
}

/// The blocks of one answer.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    open: Option<Block>,
    /// Blocks that are complete.
    num_closed: usize,
}

impl Blocks {
    /// Tells `put` what a delta does, with the number of the block. Every answer has a block.
    pub(crate) fn take(&mut self, delta: &Delta, put: &mut dyn FnMut(usize, Step)) {
        // The rest of an open call comes before what follows the call.
        let is_rest = |call: &&CallDelta| match call {
            CallDelta::Arguments { index, .. } => self.open == Some(Block::ToolUse(*index)),
            CallDelta::Start { .. } => false,
        };
        let num_rest = delta.calls.iter().take_while(is_rest).count();
        let (rest, calls) = delta.calls.split_at(num_rest);
        rest.iter().for_each(|call| self.call(call, put));
        if !delta.reasoning.is_empty() {
            self.enter(Block::Thinking, Start::Thinking, put);
            put(self.num_closed, Step::Thinking(&delta.reasoning));
        }
        if !delta.text.is_empty() {
            self.enter(Block::Text, Start::Text, put);
            put(self.num_closed, Step::Text(&delta.text));
        }
        calls.iter().for_each(|call| self.call(call, put));
        if delta.finish.is_some() {
            if self.open.is_none() && self.num_closed == 0 {
                self.enter(Block::Text, Start::Text, put);
            }
            self.close(delta.finish, put);
        }
    }

    fn call(&mut self, call: &CallDelta, put: &mut dyn FnMut(usize, Step)) {
        match call {
            CallDelta::Start { index, id, name } => {
                self.enter(Block::ToolUse(*index), Start::ToolUse { id, name }, put);
            }
            CallDelta::Arguments { fragment, .. } => put(self.num_closed, Step::Input(fragment)),
        }
    }

    fn enter(&mut self, block: Block, start: Start, put: &mut dyn FnMut(usize, Step)) {
        if self.open == Some(block) {
            return;
        }
        self.close(None, put);
        self.open = Some(block);
        put(self.num_closed, Step::Start(start));
    }

    fn close(&mut self, end: Option<FinishReason>, put: &mut dyn FnMut(usize, Step)) {
        if let Some(block) = self.open.take() {
            put(self.num_closed, Step::Stop(block, end));
            self.num_closed += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(deltas: &[Delta]) -> Vec<String> {
        let mut blocks = Blocks::default();
        let mut steps = Vec::new();
        for delta in deltas {
            blocks.take(delta, &mut |i, step| steps.push(format!("{i} {step:?}")));
        }
        steps
    }

    fn start(index: usize) -> CallDelta {
        CallDelta::Start { index, id: "i".into(), name: "f".into() }
    }

    fn arguments(index: usize, fragment: &str) -> CallDelta {
        CallDelta::Arguments { index, fragment: fragment.into() }
    }

    #[test]
    fn an_answer_of_nothing_has_an_empty_text() {
        let end = Delta { finish: Some(FinishReason::Stop), ..Delta::default() };
        assert_eq!(steps(&[end]), ["0 Start(Text)", "0 Stop(Text, Some(Stop))"]);
    }

    #[test]
    fn blocks_follow_each_other() {
        let deltas = [
            Delta { reasoning: "a".into(), ..Delta::default() },
            Delta { reasoning: "b".into(), text: "c".into(), ..Delta::default() },
            Delta { calls: vec![start(0), arguments(0, "{")], ..Delta::default() },
            Delta {
                text: "d".into(),
                calls: vec![arguments(0, "}"), start(1), arguments(1, "{}")],
                finish: Some(FinishReason::ToolCalls),
                ..Delta::default()
            },
        ];
        assert_eq!(
            steps(&deltas),
            [
                "0 Start(Thinking)",
                "0 Thinking(\"a\")",
                "0 Thinking(\"b\")",
                "0 Stop(Thinking, None)",
                "1 Start(Text)",
                "1 Text(\"c\")",
                "1 Stop(Text, None)",
                "2 Start(ToolUse { id: \"i\", name: \"f\" })",
                "2 Input(\"{\")",
                "2 Input(\"}\")",
                "2 Stop(ToolUse(0), None)",
                "3 Start(Text)",
                "3 Text(\"d\")",
                "3 Stop(Text, None)",
                "4 Start(ToolUse { id: \"i\", name: \"f\" })",
                "4 Input(\"{}\")",
                "4 Stop(ToolUse(1), Some(ToolCalls))",
            ]
        );
    }
}
