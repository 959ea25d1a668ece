//! What is typed most, told at the end of a command's help.

pub(crate) const SERVE: &str = r#"Example:
  holdfast serve --config /etc/holdfast/holdfast.toml"#;

pub(crate) const DOCTOR: &str = r#"Example:
  holdfast doctor --config /etc/holdfast/holdfast.toml"#;

pub(crate) const EVENTS: &str = r#"Examples:
  holdfast events
  holdfast events --follow --json"#;

pub(crate) const USAGE: &str = r#"Example:
  holdfast usage --month 2027-01 --csv"#;

pub(crate) const AUDIT: &str = r#"Examples:
  holdfast audit --domain example.org
  holdfast audit --by ann --json"#;

pub(crate) const DEV: &str = r#"Examples:
  holdfast dev --dir /tmp/sandbox --nodes 3
  holdfast dev clock --dir /tmp/sandbox advance 5d"#;

pub(crate) const CONFIG_CHECK: &str = r#"Example:
  holdfast config check /etc/holdfast/holdfast.toml"#;

pub(crate) const CLUSTER_INVITE: &str = r#"Examples:
  holdfast cluster invite
  holdfast cluster invite --ttl 30m | tail -n 1 | ssh nyc1 holdfast cluster join -"#;

pub(crate) const CLUSTER_JOIN: &str = r#"Example:
  holdfast cluster join TOKEN"#;

pub(crate) const CLUSTER_LEAVE: &str = r#"Examples:
  holdfast cluster leave nyc1 --dry-run
  holdfast cluster leave nyc1"#;

pub(crate) const CLUSTER_ACME_USE: &str = r#"Example:
  holdfast cluster acme use --directory https://acme-v02.api.letsencrypt.org/directory \
      --contact mailto:ops@holdfast.example --agree"#;

pub(crate) const NODE_REPLACE: &str = r#"Examples:
  holdfast node replace nyc1 --with nyc2 --dry-run
  holdfast node replace nyc1 --with nyc2"#;

pub(crate) const NODE_DRAIN: &str = r#"Examples:
  holdfast node drain nyc1   # until it says: safe to stop
  systemctl stop 'holdfast*.socket' holdfast.service   # on nyc1
  systemctl start holdfast
  holdfast node undrain nyc1"#;

pub(crate) const DOMAIN_ADD: &str = r#"Examples:
  holdfast domain add example.org --primary mail.example.org:25
  holdfast domain add example.org --primary mx --hold 30d --quota 10GB --recipients verify"#;

pub(crate) const DOMAIN_SET: &str = r#"Examples:
  holdfast domain set example.org --hold 30d
  holdfast domain set example.org --primary 192.0.2.25:25 --dry-run"#;

pub(crate) const DOMAIN_RECIPIENTS: &str = r#"Examples:
  holdfast domain recipients example.org --add joe,ann
  holdfast domain recipients example.org --clear --import names.txt
  holdfast domain set example.org --recipients listed   # from now on only theirs"#;

pub(crate) const DOMAIN_ROUTE: &str = r#"Examples:
  holdfast domain route example.org
  holdfast domain route example.org --tls verified --login backup --secret-file secret"#;

pub(crate) const DOMAIN_ASKERS: &str = r#"Example:
  holdfast domain askers example.org 192.0.2.0/24 2001:db8::/32"#;

pub(crate) const SNAPSHOT_SAVE: &str = r#"Examples:
  holdfast snapshot save /root/holdfast.copy
  holdfast snapshot save --stopped /root/n3.copy --config /etc/holdfast/holdfast.toml   # as root"#;

pub(crate) const SNAPSHOT_RESTORE: &str = r#"Example, as root, with the node stopped:
  holdfast snapshot restore holdfast.copy --config /etc/holdfast/holdfast.toml"#;

pub(crate) const CLUSTER_RECOVER_INSPECT: &str = r#"Example, as root, with the node stopped:
  holdfast cluster recover inspect --config /etc/holdfast/holdfast.toml"#;

pub(crate) const CLUSTER_RECOVER_START: &str = r#"Examples, as root, with the node stopped:
  holdfast cluster recover start --with n3.copy --dry-run --config /etc/holdfast/holdfast.toml
  holdfast cluster recover start --with n3.copy --config /etc/holdfast/holdfast.toml"#;

pub(crate) const DRILL_RUN: &str = r#"Examples:
  holdfast drill run --kind leader-loss --duration 1m --dry-run
  holdfast drill run --kind region-loss --region us --html report.html"#;

pub(crate) const DRILL_SCHEDULE_SET: &str = r#"Example:
  holdfast drill schedule set weekly --kind region-loss --every 7d"#;

pub(crate) const PLAN_ADD: &str = r#"Example:
  holdfast plan add basic --price "5.00 EUR" --quota 1GB --step 1GB --step-price "2.00 EUR""#;

pub(crate) const MAIL_LIST: &str = r#"Examples:
  holdfast mail list --domain example.org --older 1d
  holdfast mail list --refused --reply 'user unknown' --json"#;

pub(crate) const MAIL_TRACE: &str = r#"Examples:
  holdfast mail trace 01J8ZQ4T6V0W8X2Y4Z6A8B0C2D
  holdfast mail trace --from ann@sender.example --to joe@ --since 2h"#;

pub(crate) const MAIL_DELIVER: &str = r#"Example:
  holdfast mail deliver --domain example.org"#;

pub(crate) const MAIL_BOUNCE: &str = r#"Example:
  holdfast mail bounce --domain example.org --dry-run"#;

pub(crate) const MAIL_DELETE: &str = r#"Examples:
  holdfast mail delete --from spammer.example --dry-run
  holdfast mail delete --from spammer.example"#;

pub(crate) const ACCESS_GRANT: &str = r#"Examples:
  holdfast access grant ann --role operator --out ann.pem
  holdfast --node fra1.holdfast.example:8443 --identity ann.pem status   # what ann types"#;

pub(crate) const ACCOUNT_ADD: &str = r#"Example:
  holdfast account add ann@example.org --domain example.org"#;

pub(crate) const ACCOUNT_TOKEN_ADD: &str = r#"Example:
  holdfast account token add ann@example.org --scope read,deliver --label "backup script""#;
