//! The caller's key: an encrypted keystore, the environment, or, on anvil's chain alone, one of its
//! well-known accounts. No key is taken from the command line, and none is ever printed.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use alloy::signers::local::PrivateKeySigner;
use alloy_primitives::{Address, B256, address, b256};
use clap::ValueEnum;
use eyre::{WrapErr, bail, ensure, eyre};
use secrecy::{ExposeSecret, SecretString};
use stipend_core::DEV_CHAIN_ID;

use crate::keystore;

/// Account 4 of anvil: the treasury of the card program that `stipend dev` plays.
pub(crate) const DEV_TREASURY: Address = address!("0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65");

const PRIVATE_KEY: &str = "STIPEND_PRIVATE_KEY";
const PASSWORD: &str = "STIPEND_PASSWORD";

/// Accounts of the mnemonic that anvil and hardhat are known for: twenty, of which hardhat funds all.
const WELL_KNOWN: [Address; 20] = [
    address!("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"),
    address!("0x70997970C51812dc3A010C7d01b50e0d17dc79C8"),
    address!("0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"),
    address!("0x90F79bf6EB2c4f870365E785982E1f101E93b906"),
    DEV_TREASURY,
    address!("0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc"),
    address!("0x976EA74026E726554dB657fA54763abd0C3a0aa9"),
    address!("0x14dC79964da2C08b23698B3D3cc7Ca32193d9955"),
    address!("0x23618e81E3f5cdF7f54C3d65f7FBc0aBf5B21E8f"),
    address!("0xa0Ee7A142d267C1f36714E4a8F75612F20a79720"),
    address!("0xBcd4042DE499D14e55001CcbB24a551F3b954096"),
    address!("0x71bE63f3384f5fb98995898A86B02Fb2426c5788"),
    address!("0xFABB0ac9d68B0B445fB7357272Ff202C5651694a"),
    address!("0x1CBd3b2770909D4e10f157cABC84C7264073C9Ec"),
    address!("0xdF3e18d64BC6A983f673Ab319CCaE4f1a57C7097"),
    address!("0xcd3B766CCDd6AE721141F452C550Ca635964ce71"),
    address!("0x2546BcD3c84621e976D8185a91A922aE77ECEc30"),
    address!("0xbDA5747bFD65F08deb54cb465eB87D40e51B197E"),
    address!("0xdD2FD4581271e230360230F9337D5c0430Bf44C0"),
    address!("0x8626f6940E2eb28930eFb4CeF49B2d1F2C9C1199"),
];

/// The roles of `stipend dev`, on accounts of the mnemonic that anvil is known for
/// ("test test test … junk").
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DevAccount {
    /// Account 0: deploys the contracts and is the relayer's guardian
    Guardian,
    /// Account 1: approves mandates
    Operator,
    /// Account 2: asks for mandates and pays
    Agent,
    /// Account 3: sends transactions for the relayer
    Submitter,
    /// Account 5: is paid, and gives back
    Payee,
    /// Account 10: approves mandates without ETH; anvil gives it none
    GaslessOperator,
}

impl DevAccount {
    const fn secret(self) -> B256 {
        match self {
            Self::Guardian => b256!("0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"),
            Self::Operator => b256!("0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"),
            Self::Agent => b256!("0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a"),
            Self::Submitter => b256!("0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6"),
            Self::Payee => b256!("0x8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba"),
            Self::GaslessOperator => b256!("0xf214f2b2cd398c806f84e317254e0f0b801d0643303237d97a22a48e01628897"),
        }
    }

    /// Its key. The caller sees to it that the chain is [`DEV_CHAIN_ID`].
    pub(crate) fn signer(self) -> eyre::Result<PrivateKeySigner> {
        Ok(PrivateKeySigner::from_bytes(&self.secret())?)
    }
}

/// Where the key comes from.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct KeyArgs {
    /// Sign with the key in this encrypted keystore (`stipend key new`, or another wallet's); the
    /// password is in --password-file or STIPEND_PASSWORD, or is asked for
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "dev_account", help_heading = "Key")]
    pub(crate) keystore: Option<PathBuf>,
    /// The keystore's password is the first line of this file
    #[arg(long, global = true, value_name = "FILE", help_heading = "Key")]
    pub(crate) password_file: Option<PathBuf>,
    /// Sign with a well-known account of anvil; refused on every chain id but 31337
    #[arg(long, global = true, value_name = "NAME", help_heading = "Key")]
    pub(crate) dev_account: Option<DevAccount>,
}

/// A key, and whether the whole world has it.
#[derive(Debug)]
pub(crate) enum Key {
    /// The caller's own.
    Own(PrivateKeySigner),
    /// A well-known one, and whether the caller named it.
    Dev { account: DevAccount, named: bool },
}

impl KeyArgs {
    /// The key that was asked for; the dev account of `role` if none was.
    pub(crate) fn key(&self, role: DevAccount) -> eyre::Result<Key> {
        if let Some(file) = &self.keystore {
            return self.open(file);
        }
        ensure!(self.password_file.is_none(), "--password-file is for --keystore");
        if let Some(account) = self.dev_account {
            return Ok(Key::Dev { account, named: true });
        }
        match private_key() {
            Ok(text) => parse(&SecretString::from(text)).map(Key::Own),
            Err(env::VarError::NotPresent) => Ok(Key::Dev { account: role, named: false }),
            Err(env::VarError::NotUnicode(_)) => bail!("{PRIVATE_KEY} is not text"),
        }
    }

    /// The keys of those who do the same work: the one of `key`, or all of a list in the environment,
    /// and those in these keystores, which have one password.
    pub(crate) fn keys(&self, role: DevAccount, more: &[PathBuf]) -> eyre::Result<Vec<Key>> {
        let mut keys = match private_key() {
            Ok(list) if self.keystore.is_none() && self.dev_account.is_none() => {
                list.split(',').map(|key| parse(&SecretString::from(key)).map(Key::Own)).collect::<Result<_, _>>()?
            }
            _ => vec![self.key(role)?],
        };
        for file in more {
            keys.push(self.open(file)?);
        }
        Ok(keys)
    }

    fn open(&self, file: &Path) -> eyre::Result<Key> {
        keystore::open(file, || self.password(file)).map(Key::Own)
    }

    fn password(&self, keystore: &Path) -> eyre::Result<SecretString> {
        match &self.password_file {
            Some(file) => password_in(file),
            None => password_variable().map_or_else(|| keystore::asked_password(keystore), Ok),
        }
    }

    /// The address of the key that was given.
    pub(crate) fn address(&self) -> eyre::Result<Address> {
        match self.key(DevAccount::Agent)? {
            Key::Own(signer) => Ok(signer.address()),
            Key::Dev { account, named: true } => Ok(account.signer()?.address()),
            Key::Dev { named: false, .. } => bail!("no key given: use --keystore FILE or {PRIVATE_KEY}"),
        }
    }
}

/// The password that is the first line of this file.
pub(crate) fn password_in(file: &Path) -> eyre::Result<SecretString> {
    let text = fs::read_to_string(file).wrap_err_with(|| format!("can't read {}", file.display()))?;
    Ok(SecretString::from(text.lines().next().unwrap_or_default()))
}

/// The password in the environment.
pub(crate) fn password_variable() -> Option<SecretString> {
    env::var(PASSWORD).ok().map(SecretString::from)
}

/// An empty variable, as compose files and service managers set it, is none.
fn private_key() -> Result<String, env::VarError> {
    env::var(PRIVATE_KEY).and_then(|text| if text.is_empty() { Err(env::VarError::NotPresent) } else { Ok(text) })
}

fn parse(text: &SecretString) -> eyre::Result<PrivateKeySigner> {
    // The parser's own error could quote what it was given.
    text.expose_secret().trim().parse().map_err(|_| eyre!("{PRIVATE_KEY} is not a private key: 64 hex digits"))
}

impl Key {
    /// The key for use on a chain, as every party to the command names it.
    pub(crate) fn on(&self, chain_id: u64) -> eyre::Result<PrivateKeySigner> {
        match self {
            Self::Own(signer) if chain_id != DEV_CHAIN_ID && WELL_KNOWN.contains(&signer.address()) => bail!(
                "{} is a well-known account of anvil and works on chain id {DEV_CHAIN_ID} only, and this is chain id {chain_id}: everybody has that key",
                signer.address()
            ),
            Self::Own(signer) => Ok(signer.clone()),
            Self::Dev { account, .. } if chain_id == DEV_CHAIN_ID => account.signer(),
            Self::Dev { named: true, .. } => bail!(
                "--dev-account works on chain id {DEV_CHAIN_ID} only, and this is chain id {chain_id}: everybody has that key"
            ),
            Self::Dev { named: false, .. } => {
                bail!("no key given: use --keystore FILE or {PRIVATE_KEY} (this is chain id {chain_id})")
            }
        }
    }
}

/// A key as it can stand in a header.
pub(crate) fn api_key(text: &str) -> Result<SecretString, &'static str> {
    let sound = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if sound { Ok(text.into()) } else { Err("a key has one or more printable characters and no blanks") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dev_accounts_are_those_of_the_well_known_mnemonic() {
        for (account, expected) in [
            (DevAccount::Guardian, address!("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266")),
            (DevAccount::Operator, address!("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")),
            (DevAccount::Agent, address!("0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC")),
            (DevAccount::Submitter, address!("0x90F79bf6EB2c4f870365E785982E1f101E93b906")),
            (DevAccount::Payee, address!("0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc")),
            (DevAccount::GaslessOperator, address!("0xBcd4042DE499D14e55001CcbB24a551F3b954096")),
        ] {
            assert_eq!(account.signer().unwrap().address(), expected, "{account:?}");
        }
    }

    #[test]
    fn a_dev_account_is_refused_on_every_other_chain() {
        for chain_id in [1, 8453, 84532, 31_338] {
            for named in [true, false] {
                let error = Key::Dev { account: DevAccount::Agent, named }.on(chain_id).unwrap_err().to_string();
                assert!(error.contains(&chain_id.to_string()), "{error}");
            }
        }
        assert!(Key::Dev { account: DevAccount::Agent, named: false }.on(DEV_CHAIN_ID).is_ok());
    }

    #[test]
    fn a_well_known_key_is_refused_there_however_it_comes() {
        for account in DevAccount::value_variants() {
            let key = Key::Own(account.signer().unwrap());
            assert!(key.on(8453).is_err(), "{account:?}");
            assert!(key.on(DEV_CHAIN_ID).is_ok(), "{account:?}");
        }
        // The last of hardhat's twenty.
        let last = parse(&"0xdf57089febbacf7ba0bc227dafbffa9fc08a93fdc68e1e42411a14efcf23656e".into()).unwrap();
        assert!(Key::Own(last).on(8453).is_err());
    }

    #[test]
    fn a_malformed_key_is_not_quoted() {
        let error = parse(&SecretString::from("0xdeadbeef")).unwrap_err();
        assert!(!format!("{error:?}").contains("deadbeef"));
    }

    #[test]
    fn debug_output_holds_no_key() {
        let key = Key::Own(DevAccount::Operator.signer().unwrap());
        assert!(!format!("{key:?}").contains("59c6995e"));
    }
}
