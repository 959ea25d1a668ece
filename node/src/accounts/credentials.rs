//! What a program showed when its session began. A session may last for hours, and what it was begun with
//! can be taken back meanwhile: so it is looked at again.

use holdfast_ledger::account::{Account, Scopes};
use holdfast_ledger::{KvError, KvRead, query};
use holdfast_mail::Timestamp;

/// Of a session that lasts.
#[derive(Clone)]
pub struct Credentials {
    name: String,
    shown: Shown,
}

#[derive(Clone)]
enum Shown {
    /// The password of that epoch.
    Password { epoch: u64 },
    /// A token, for what it was wanted for.
    Token { id: [u8; 16], wanted: Scopes },
}

impl Credentials {
    pub(super) fn password(account: &Account) -> Self {
        Self {
            name: account.name.clone(),
            shown: Shown::Password {
                epoch: account.epoch,
            },
        }
    }

    pub(super) fn token(account: &Account, id: [u8; 16], wanted: Scopes) -> Self {
        Self {
            name: account.name.clone(),
            shown: Shown::Token { id, wanted },
        }
    }

    /// The account as it is now; `None` once what was shown is no longer good.
    ///
    /// # Errors
    /// The account cannot be read.
    pub fn account(&self, view: &dyn KvRead, now: Timestamp) -> Result<Option<Account>, KvError> {
        let account = query::account(view, &self.name)?;
        Ok(account.filter(|account| match &self.shown {
            Shown::Password { epoch } => account.epoch == *epoch,
            Shown::Token { id, wanted } => account.tokens.iter().any(|token| {
                let is_over = token.expires_at.is_some_and(|at| now >= at);
                token.id == *id && token.scopes.include(*wanted) && !is_over
            }),
        }))
    }
}

#[cfg(test)]
mod tests {
    use holdfast_ledger::account::{AccessToken, AccountChange};
    use holdfast_ledger::{Batch, Command, MemoryKv, Reply, apply_batch};

    use super::*;

    const SEND: Scopes = Scopes {
        read: false,
        deliver: false,
        mail: false,
        settings: false,
        send: true,
        fetch: false,
    };

    struct House {
        kv: MemoryKv,
        index: u64,
    }

    impl House {
        fn of_ann() -> Self {
            let mut house = Self {
                kv: MemoryKv::new(),
                index: 0,
            };
            house.change(AccountChange::Add {
                password: "hash".to_owned(),
                domains: vec![],
            });
            house
        }

        fn change(&mut self, change: AccountChange) {
            self.index += 1;
            let batch = Batch {
                at: Timestamp(1_000),
                commands: vec![Command::OfAccount {
                    name: "ann".to_owned(),
                    change,
                }],
            };
            let replies = apply_batch(&mut self.kv, self.index, &batch, &mut vec![]);
            assert_eq!(replies.unwrap(), [Reply::Done]);
        }

        fn ann(&self) -> Account {
            query::account(&self.kv, "ann").unwrap().unwrap()
        }

        fn is_good(&self, shown: &Credentials, now: u64) -> bool {
            shown.account(&self.kv, Timestamp(now)).unwrap().is_some()
        }
    }

    #[test]
    fn a_password_is_good_until_there_is_another_or_all_are_signed_out() {
        let mut house = House::of_ann();
        for ends in [
            AccountChange::Password("other".to_owned()),
            AccountChange::SecondFactor(Some(vec![1])),
            AccountChange::SignOut,
            AccountChange::Remove,
        ] {
            let shown = Credentials::password(&house.ann());
            assert!(house.is_good(&shown, 1_000));
            house.change(ends);
            assert!(!house.is_good(&shown, 1_000));
        }
    }

    #[test]
    fn a_token_is_good_until_it_is_removed_or_its_time_is_over() {
        let mut house = House::of_ann();
        let add = || {
            AccountChange::AddToken(AccessToken {
                id: [7; 16],
                secret_hash: [0; 32],
                scopes: SEND,
                label: String::new(),
                expires_at: Some(Timestamp(2_000)),
            })
        };
        house.change(add());
        let shown = Credentials::token(&house.ann(), [7; 16], SEND);
        assert!(house.is_good(&shown, 1_999) && !house.is_good(&shown, 2_000));
        let more = Credentials::token(&house.ann(), [7; 16], Scopes::ALL);
        assert!(!house.is_good(&more, 1_000));
        house.change(AccountChange::Password("other".to_owned()));
        assert!(house.is_good(&shown, 1_000), "tokens have no password");
        house.change(AccountChange::RemoveToken([7; 16]));
        assert!(!house.is_good(&shown, 1_000));
    }
}
