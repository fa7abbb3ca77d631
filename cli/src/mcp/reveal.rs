//! Where a card's number goes: to the model only if nothing else was said.

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
    str::FromStr,
};

use eyre::{WrapErr, ensure};
use stipend_core::{CardId, api::CardSecrets};

/// Where `card_reveal` hands a number.
#[derive(Clone, Debug)]
pub(crate) enum RevealTo {
    /// Into the model's context.
    Model,
    /// Nowhere: there is no such tool.
    None,
    /// Into a file of this directory that only this user can read.
    File(PathBuf),
    /// To a program's stdin.
    Command(String),
}

impl FromStr for RevealTo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.split_once(':')) {
            ("model", _) => Ok(Self::Model),
            ("none", _) => Ok(Self::None),
            (_, Some(("file", directory))) if !directory.is_empty() => Ok(Self::File(directory.into())),
            (_, Some(("command", program))) if !program.is_empty() => Ok(Self::Command(program.into())),
            _ => Err("one of model, none, file:DIRECTORY and command:PROGRAM".into()),
        }
    }
}

/// Hands a number to a file or a program of the host, and says where it is.
pub(super) fn hand_over(to: &RevealTo, card: CardId, secrets: &CardSecrets) -> eyre::Result<String> {
    let CardSecrets { number, cvv, exp_month, exp_year } = secrets;
    let text = serde_json::json!({
        "card": card, "number": number, "cvv": cvv, "exp_month": exp_month, "exp_year": exp_year,
    })
    .to_string();
    match to {
        RevealTo::File(directory) => {
            fs::create_dir_all(directory).wrap_err_with(|| format!("can't make {}", directory.display()))?;
            let path = directory.join(format!("{card}.json"));
            let mut options = fs::OpenOptions::new();
            options.create(true).truncate(true).write(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let mut file = options.open(&path).wrap_err_with(|| format!("can't write {}", path.display()))?;
            // One of that name may be open to others.
            #[cfg(unix)]
            file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
            file.write_all(text.as_bytes())?;
            Ok(format!("the number is in the file {}", path.display()))
        }
        RevealTo::Command(program) => {
            let mut command = Command::new("/bin/sh");
            // Whatever it prints is not for the model either.
            command.args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = command.spawn().wrap_err("the host's program can't be run")?;
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(text.as_bytes())?;
            }
            let status = child.wait()?;
            ensure!(status.success(), "the host's program failed: {status}");
            Ok("the number was handed to the host's program".into())
        }
        RevealTo::Model | RevealTo::None => Ok(String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets() -> CardSecrets {
        CardSecrets { number: "4111".into(), cvv: "123".into(), exp_month: "01".into(), exp_year: "2030".into() }
    }

    #[test]
    fn a_place_is_named_or_refused() {
        assert!(matches!("model".parse(), Ok(RevealTo::Model)));
        assert!(matches!("none".parse(), Ok(RevealTo::None)));
        assert!(matches!("file:/tmp/x:y".parse(), Ok(RevealTo::File(path)) if path.as_os_str() == "/tmp/x:y"));
        assert!(matches!("command:cat".parse(), Ok(RevealTo::Command(_))));
        for wrong in ["", "file:", "command:", "stdout", "Model"] {
            assert!(wrong.parse::<RevealTo>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_number_reaches_the_host_and_not_the_answer() {
        let directory = tempfile::tempdir().unwrap();
        let card = CardId::generate();
        let path = directory.path().join("cards").join(format!("{card}.json"));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::create_dir(directory.path().join("cards")).unwrap();
            fs::write(&path, "old").unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        }
        let said = hand_over(&RevealTo::File(directory.path().join("cards")), card, &secrets()).unwrap();
        assert!(said.contains(&path.display().to_string()) && !said.contains("4111"));
        assert!(fs::read_to_string(&path).unwrap().contains("\"number\":\"4111\""));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let out = directory.path().join("out");
        let said = hand_over(&RevealTo::Command(format!("cat > '{}'", out.display())), card, &secrets()).unwrap();
        assert!(!said.contains("4111") && fs::read_to_string(out).unwrap().contains("4111"));
        assert!(hand_over(&RevealTo::Command("exit 3".into()), card, &secrets()).is_err());
    }
}
