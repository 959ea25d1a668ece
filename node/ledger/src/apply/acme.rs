//! Acme: a certificate that is ordered for all nodes.

use holdfast_proto::ledger as proto;

use super::{Logged, refuse};
use crate::acme::{ACME_NAMES_MAX, AcmeChange};
use crate::{Kv, KvError, Refusal, Reply, row, tables};

pub(super) fn change(kv: &mut dyn Kv, when: Logged, change: &AcmeChange) -> Result<Reply, KvError> {
    if !change.is_sound() {
        return refuse(Refusal::Malformed);
    }
    let known: Option<proto::AcmeRow> = row::get(kv, tables::ACME)?;
    if let AcmeChange::Use(directory) = change {
        forget_answers(kv)?;
        let directory = directory.to_proto();
        let credentials = known
            .filter(|known| {
                known.directory.as_ref().is_some_and(|before| {
                    before.url == directory.url && before.contacts == directory.contacts
                })
            })
            .map_or_else(Default::default, |known| known.credentials);
        let row = proto::AcmeRow {
            directory: Some(directory),
            credentials,
            since_ms: when.at.0,
            ..proto::AcmeRow::default()
        };
        row::put(kv, tables::ACME, &row);
        return Ok(Reply::Done);
    }
    let Some(mut known) = known else {
        return refuse(Refusal::NoAcme);
    };
    let url = known.directory.as_ref().map(|it| it.url.as_str());
    match change {
        // Done before there was a row.
        AcmeChange::Use(_) => {}
        AcmeChange::Stop => {
            forget_answers(kv)?;
            kv.delete(tables::ACME);
            kv.delete(tables::ACME_ISSUED);
        }
        AcmeChange::Try { tries } => {
            if known.tries != *tries {
                return refuse(Refusal::TryAgain);
            }
            forget_answers(kv)?;
            known.tries = known.tries.saturating_add(1);
            known.tried_at_ms = when.at.0;
            known.why = String::new();
            row::put(kv, tables::ACME, &known);
        }
        AcmeChange::Failed { why } => {
            forget_answers(kv)?;
            known.why.clone_from(why);
            row::put(kv, tables::ACME, &known);
        }
        AcmeChange::Account {
            directory,
            credentials,
        } => {
            if url != Some(directory) {
                return refuse(Refusal::NoAcme);
            }
            known.credentials = credentials.clone().into();
            row::put(kv, tables::ACME, &known);
        }
        AcmeChange::Answer {
            token,
            key_authorization,
        } => {
            let key = tables::acme_answer(token);
            let full = kv.scan(tables::ACME_ANSWERS, &[], ACME_NAMES_MAX)?.len() == ACME_NAMES_MAX;
            if full && !row::exists(kv, &key)? {
                return refuse(Refusal::Malformed);
            }
            let row = proto::AcmeAnswerRow {
                key_authorization: key_authorization.clone(),
            };
            row::put(kv, &key, &row);
        }
        AcmeChange::Issued(issued) => {
            // Somebody has chosen another meanwhile.
            if url != Some(&issued.directory) {
                return refuse(Refusal::NoAcme);
            }
            forget_answers(kv)?;
            let row = proto::AcmeIssuedRow {
                directory: issued.directory.clone(),
                chain: issued.chain.clone(),
                key: issued.key.clone(),
                names: issued.names.clone(),
                issued_at_ms: when.at.0,
            };
            row::put(kv, tables::ACME_ISSUED, &row);
            known.tries = 0;
            known.why = String::new();
            row::put(kv, tables::ACME, &known);
        }
    }
    Ok(Reply::Done)
}

fn forget_answers(kv: &mut dyn Kv) -> Result<(), KvError> {
    for (key, _) in kv.scan(tables::ACME_ANSWERS, &[], usize::MAX)? {
        kv.delete(&key);
    }
    Ok(())
}
