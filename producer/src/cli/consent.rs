//! Asks a person before what cannot be taken back.

use std::io::IsTerminal as _;

use super::fault::Fault;
use super::ui;

/// Tells whether somebody is there who can be asked.
pub(super) fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks; anything but yes is no.
pub(super) async fn ask(question: &str) -> Result<bool, Fault> {
    ui::tell(&format!("{question} [y/N]"));
    let reading = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map(|_| answer)
    });
    let answer = reading.await.map_err(|error| Fault::of(&error))?.map_err(|error| Fault::of(&error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Asks; who cannot be asked must say so beforehand, and is told `refusal` and what to add.
pub(super) async fn confirm(question: &str, refusal: String, hint: &str) -> Result<bool, Fault> {
    if !std::io::stdin().is_terminal() {
        return Err(Fault::new(refusal).hint(hint));
    }
    ask(question).await
}
