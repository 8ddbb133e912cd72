//! The `fathom` command. This file reads the command line and hands over to one module per command.

mod args;
mod client;
mod clock;
mod commands;
mod connect;
mod estimate;
mod export;
mod failure;
mod huge_pages;
mod local;
mod manifest;
mod output;
mod problems;
mod runner;
mod series;
mod ship;
mod terminal;

use args::{Cli, Command};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let context = cli.context();
    if matches!(cli.command, Command::Worker(_) | Command::Pod(_) | Command::Bench(_)) {
        huge_pages::adopt();
    }
    let result = match cli.command {
        Command::Worker(args) => return commands::worker::run(&args),
        Command::Pod(args) => return commands::pod::run(&args),
        Command::Operator(args) => commands::operator::run(&args, &context),
        Command::Run(args) => commands::run::run(&args, &context),
        Command::Ui(args) => commands::ui::run(&args, &context),
        Command::Plan(args) => commands::plan::run(&args, &context),
        Command::Status(args) => commands::status::run(&args, &context),
        Command::Metrics(args) => commands::metrics::run(&args, &context),
        Command::Health(args) => commands::health::run(&args, &context),
        Command::Logs(args) => commands::logs::run(&args, &context),
        Command::Top(args) => commands::top::run(&args, &context),
        Command::Compare(args) => commands::compare::run(&args, &context),
        Command::Matrix(args) => commands::matrix::run(&args, &context),
        Command::Server(args) => commands::server::run(&args, &context),
        Command::Init(args) => commands::init::run(&args, &context),
        Command::Validate(args) => commands::validate::run(&args, &context),
        Command::Explain(args) => commands::explain::run(&args),
        Command::Schema(args) => commands::schema::run(&args),
        Command::Completion(args) => commands::completion::run(&args),
        Command::Generate(args) => commands::generate::run(&args, &context),
        Command::Ckpt(args) => commands::ckpt::run(&args, &context),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Debug(args) => commands::debug::run(args),
        Command::Version(args) => commands::version::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to tell if standard error is closed.
            let _ = failure.print(&mut std::io::stderr(), context.terminal.colour);
            ExitCode::from(failure.exit() as u8)
        }
    }
}
