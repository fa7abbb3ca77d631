//! A terminal of a chosen width, as people see a program on.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    process::{Command, Stdio},
    thread,
};

use eyre::{Result, WrapErr};
use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

/// Runs a command on a terminal with so many columns, answers its question with no, and returns all that it
/// showed.
///
/// # Errors
/// If there are no terminals here, or it can't be run.
pub fn on_terminal(mut command: Command, columns: u16) -> Result<String> {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    grantpt(&controller)?;
    unlockpt(&controller)?;
    let name = ptsname(&controller, Vec::new())?.into_string()?;
    let terminal = OpenOptions::new().read(true).write(true).open(&name).wrap_err(name)?;
    tcsetwinsize(&terminal, Winsize { ws_row: 40, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?;
    command.stdin(Stdio::from(terminal.try_clone()?)).stdout(Stdio::from(terminal.try_clone()?));
    let mut child = command.stderr(Stdio::from(terminal)).spawn()?;
    // Else its end would never be seen.
    drop(command);
    let mut controller = File::from(controller);
    controller.write_all(b"n\n")?;
    let reader = thread::spawn(move || {
        let mut shown = Vec::new();
        // At the end of the other side, reading fails.
        let _ = controller.read_to_end(&mut shown);
        shown
    });
    child.wait()?;
    let shown = reader.join().map_err(|_| eyre::eyre!("the reader panicked"))?;
    Ok(String::from_utf8(shown)?.replace("\r\n", "\n"))
}
