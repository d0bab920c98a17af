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
        let name = format!("gristmill {}", command.get_name());
        section(&mut text, &name, command.clone());
        for nested in command.get_subcommands().filter(|nested| nested.get_name() != "help") {
            section(&mut text, &format!("{name} {}", nested.get_name()), nested.clone());
        }
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
`./.env` below it, flags. An empty variable counts as none. Any value in the file may be `os.environ/NAME`. Unknown keys of
`gristmill.yaml` are refused with the near name; keys of LiteLLM that have no effect here are named in one warning. A file of any
other name may be a configuration of LiteLLM's, as it is: [litellm.md](litellm.md).

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

Several entries of one `model_name` share its work. `litellm_params` also takes:

| | |
|---|---|
| `custom_llm_provider`, `base_url`, `api_version`, `organization`, `extra_headers` … | whom it calls: [providers.md](providers.md) |
| `rpm`, `tpm`, `itpm`, `otpm`, `rpd`, `tpd`, `max_parallel_requests` | limits, over all workers |
| `weight` | its share of the group's work, such as 3 or 0.25; 0: only where no other can be called. Default 1; in a group without weights its `rpm`, else its `tpm` |
| `order` | those of a lower number come first. Default 1 |
| `tags` | a list; with `enable_tag_filtering` a request's tags choose by it |
| `temperature`, `top_p`, `seed`, `reasoning_effort`, `max_tokens` …, the keys of `extra_body` | set where a request does not |
| `timeout`, `connect_timeout`, `first_byte_timeout`, `idle_timeout` | seconds |
| `num_retries`, `max_retries` | calls after the first one |
| `input_cost_per_token`, `output_cost_per_token`, `cache_read_input_token_cost` … | dollars for one token, in place of the table's: [costs.md](costs.md#prices); in `model_info` too |

and `model_info`:

| | |
|---|---|
| `id` | names the deployment. Default: the group, with `#2`, `#3` … |
| `limit_account` | ours: deployments of one such name share their limits, which one of them says, or all alike |
| `max_input_tokens` | what the model takes; longer prompts go to a fallback without a call. Default: what the table of prices says, if it is more than 0 |
| `base_model` | the row of the table of prices, where the model's name is not one: `azure/gpt-4o` for a deployment at Azure |
| `cooldown_time`, `allowed_fails` | seconds for which it is left alone, and failures in a minute before it is |

A `model_name` may be a pattern: `openai/*` with the model `openai/*` serves `openai/gpt-4o` and all others, `*` with `*` any model of
any provider. A name wins over a pattern, a long pattern over a short one. A worker serves the models of a pattern that `--model`
names, since queues have the names of models; `run` takes them from the requests.

## Routing

`router_settings` has LiteLLM's names and defaults; `litellm_settings` is looked at for those of them that it takes too.

| | |
|---|---|
| `routing_strategy` | `weighted` (LiteLLM: `simple-shuffle`), `ordered`, `least-busy`, `lowest-latency` (`latency-based-routing`), `lowest-cost` (`cost-based-routing`: the cheapest for a request of the model's usual size; what has no price comes last). Default `weighted` |
| `fallbacks` | `[{gpt-4o: [claude, gpt-4o-mini]}]`: where a request goes when its group has failed for good; `\"*\"` for all others |
| `context_window_fallbacks`, `content_policy_fallbacks` | the same after these two errors; without such a list `fallbacks` counts |
| `default_fallbacks`, `max_fallbacks` | for groups without their own; how many are tried, 5 |
| `retry_policy` | retries by class of error: `TimeoutErrorRetries`, `RateLimitErrorRetries`, … `DefaultRetries` |
| `model_group_retry_policy` | the same for single groups; what it leaves out, `retry_policy` says |
| `retry_after` | the least wait before a retry, 0 s |
| `cooldown_time`, `allowed_fails`, `disable_cooldowns` | how long a deployment is left alone, 5 s, and after how many failures in a minute, of all classes or, by `allowed_fails_policy`, of each |
| `model_group_alias` | `{gpt-4: gpt-4o}`: another name of a group, served as a group of its own; `{model: gpt-4o, hidden: true}` lists it nowhere |
| `enable_pre_call_checks` | whether prompts are measured before a call. Default: where the model's `max_input_tokens` are known |
| `enable_tag_filtering`, `tag_filtering_match_any` | whether a request's tags choose; whether one in common is enough, true |
| `default_max_parallel_requests` | for deployments without `max_parallel_requests` |

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
