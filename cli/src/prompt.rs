//! Questions on the terminal.

use std::io::{self, BufRead, IsTerminal, Write};

use eyre::ensure;

use crate::{context::Context, output};

/// Shows what is about to happen and asks for confirmation, unless `--yes` was given.
pub(crate) fn confirm(context: &Context, yes: bool, what: &str, question: &str) -> eyre::Result<()> {
    if !(yes && context.json()) {
        output::note(what);
    }
    if yes {
        return Ok(());
    }
    ensure!(
        io::stdin().is_terminal(),
        "there is nobody to ask: no terminal here; read the above, then run the same with --yes"
    );
    let mut stderr = io::stderr().lock();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    ensure!(matches!(answer.trim(), "y" | "Y" | "yes"), "not done: the answer was no");
    Ok(())
}
