//! What is made of the command tree and the list of options: shell completions, man pages, the reference pages in `docs/`.

use std::fmt::Write as _;

use clap::{Command, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;
use gristmill_common::config::{OPTIONS, OptionDoc, nearest};

use super::fault::{Exit, Fault};
use super::ui;

/// Columns of the reference page's help texts.
const WIDTH: usize = 100;

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  gristmill completions bash > ~/.local/share/bash-completion/completions/gristmill
  gristmill completions zsh > ~/.zfunc/_gristmill
  gristmill completions fish > ~/.config/fish/completions/gristmill.fish";

#[derive(Debug, clap::Args)]
#[command(after_help = COMPLETIONS_EXAMPLES)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn completions(args: &CompletionsArgs) -> Result<Exit, Fault> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "gristmill", &mut text);
    ui::out(&text)?;
    Ok(Exit::Success)
}

const MAN_EXAMPLES: &str = "\
Examples:
  gristmill man | man -l -
  gristmill man run > ~/.local/share/man/man1/gristmill-run.1";

#[derive(Debug, clap::Args)]
#[command(after_help = MAN_EXAMPLES)]
pub(super) struct ManArgs {
    /// The command whose page is written [default: that of the program]
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

pub(super) fn man(args: &ManArgs) -> Result<Exit, Fault> {
    let mut root = super::command();
    root.build();
    let (title, command) = match &args.command {
        None => ("gristmill".to_owned(), root),
        Some(name) => match root.find_subcommand(name) {
            Some(command) => (format!("gristmill-{name}"), command.clone()),
            None => {
                let names = root.get_subcommands().filter(|command| !command.is_hide_set()).map(Command::get_name);
                let fault = Fault::new(format!("there is no command `{name}`"));
                return Err(match nearest(name, names) {
                    Some(near) => fault.hint(format!("did you mean `{near}`?")),
                    None => fault.hint("`gristmill --help` shows all of them"),
                });
            }
        },
    };
    let mut page = Vec::new();
    Man::new(command).title(title).render(&mut page).map_err(|error| Fault::of(&error))?;
    ui::out(&page)?;
    Ok(Exit::Success)
}

/// A page of the reference.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Page {
    /// docs/commands.md
    Commands,
    /// docs/configuration.md
    Configuration,
}

const REFERENCE_EXAMPLES: &str = "\
Examples:
  gristmill reference commands > docs/commands.md
  gristmill reference configuration > docs/configuration.md";

#[derive(Debug, clap::Args)]
#[command(after_help = REFERENCE_EXAMPLES)]
pub(super) struct ReferenceArgs {
    /// The page
    #[arg(value_enum)]
    page: Page,
}

pub(super) fn reference(args: &ReferenceArgs) -> Result<Exit, Fault> {
    let text = match args.page {
        Page::Commands => commands(),
        Page::Configuration => configuration(),
    };
    ui::out(text.as_bytes())?;
    Ok(Exit::Success)
}

const COMMANDS_HEAD: &str = "\
# The command line

Made by `gristmill reference commands`; a test compares this page with the program.

";

fn commands() -> String {
    let mut text = COMMANDS_HEAD.to_owned();
    section(&mut text, "gristmill", super::command());
    // What every command takes is told once.
    let mut root = super::command().mut_args(|arg| if arg.is_global_set() { arg.hide(true) } else { arg });
    root.build();
    for command in root.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        section(&mut text, &format!("gristmill {}", command.get_name()), command.clone());
    }
    text
}

fn section(text: &mut String, name: &str, command: Command) {
    let help = command.term_width(WIDTH).render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    // Writing to a String cannot fail.
    let _ = write!(text, "## `{name}`\n\n```text\n{}\n```\n\n", help.join("\n").trim_end());
}

const CONFIGURATION_HEAD: &str = "\
# Configuration

Made by `gristmill reference configuration`; a test compares this page with the program. `gristmill config` shows what counts in a
place, and where each value comes from.

Later ones win: the defaults below, `gristmill.yaml` (or the file that `--config` or `GRISTMILL_CONFIG` names), the environment with
`./.env` below it, flags. An empty variable counts as none. Any value in the file may be `os.environ/NAME`. Unknown keys of the file
are refused with the near name; keys of LiteLLM that have no effect here are named in one warning.

## Models

`model_list` has LiteLLM's field names:

```yaml
model_list:
  - model_name: gpt-4o                       # what requests write as `model`
    litellm_params:
      model: openai/gpt-4o-2024-11-20        # what the provider calls it
      api_key: os.environ/OPENAI_API_KEY
      max_parallel_requests: 64              # calls at once, over all workers
  - model_name: local
    litellm_params: { model: openai/llama-3.3-70b, api_base: \"http://localhost:8000/v1\" }
```

`litellm_params` also takes `custom_llm_provider`, `base_url`, `timeout`, `connect_timeout`, `first_byte_timeout`, `idle_timeout`,
`num_retries`, `max_retries`; `model_info.id` names a deployment. Several entries of one `model_name` share its work.

Without a `model_list` every model goes to one endpoint: `--api-base` or `GRISTMILL_API_BASE` with `GRISTMILL_API_KEY`, else
`LITELLM_API_BASE` with `LITELLM_API_KEY`, else `OPENAI_BASE_URL` (or `OPENAI_API_BASE`) with `OPENAI_API_KEY`, else api.openai.com.
A key is sent to its own endpoint only. Any secret may come from a file: `OPENAI_API_KEY_FILE`, `DATABASE_URL_FILE`, …

## Options

";

fn configuration() -> String {
    let mut text = CONFIGURATION_HEAD.to_owned();
    for option in OPTIONS {
        let _ = write!(text, "### `{}`\n\n{}\n\n{}\n", option.name, option.doc.trim(), places(option));
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn places(option: &OptionDoc) -> String {
    let code = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let mut text = format!("- value: {}\n", option.unit);
    if !option.default.is_empty() {
        let _ = writeln!(text, "- default: `{}`", option.default);
    }
    let file = if option.secret { ", or a file by the same name with `_FILE`" } else { "" };
    let _ = writeln!(text, "- environment: {}{file}", code(option.env));
    let also = if option.also.is_empty() { String::new() } else { format!(", or {}", code(option.also)) };
    let _ = writeln!(text, "- file: `{}`{also}", option.name);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(page: &str, made: &str, command: &str) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == made, "docs/{page} is stale: gristmill reference {command} > docs/{page}");
    }

    #[test]
    fn the_page_of_commands_is_as_the_program() {
        compare("commands.md", &commands(), "commands");
    }

    #[test]
    fn the_page_of_options_is_as_the_program() {
        compare("configuration.md", &configuration(), "configuration");
    }

    #[test]
    fn every_shell_gets_completions_of_every_command() {
        for shell in Shell::value_variants() {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut super::super::command(), "gristmill", &mut text);
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains("resume") && text.contains("older-than"), "{shell}");
        }
    }
}
