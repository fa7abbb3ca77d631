//! The reverts of the escrow and its token, as messages.

use alloy_sol_types::{ContractError, SolInterface};
use stipend_bindings::abi::MandateEscrow::MandateEscrowErrors as Errors;
use stipend_core::{Amount, Code, MandateId};

use super::ChainError;

pub(super) fn read(data: &[u8]) -> ChainError {
    match ContractError::<Errors>::abi_decode(data) {
        Ok(ContractError::CustomError(error)) => match error {
            Errors::Refused(refused) => Code::from_reason(refused.reason)
                .map_or_else(|| ChainError::Reverted("refused without a reason".into()), ChainError::Refused),
            Errors::AlreadyOpened(error) => ChainError::AlreadyOpened(MandateId(error.mandate)),
            Errors::AlreadyEnded(error) => ChainError::AlreadyEnded(MandateId(error.mandate)),
            other => ChainError::Reverted(message(&other)),
        },
        Ok(ContractError::Revert(revert)) => ChainError::Reverted(revert.reason),
        Ok(ContractError::Panic(panic)) => ChainError::Reverted(panic.to_string()),
        Err(_) => ChainError::Reverted("without a reason that the escrow or its token knows".into()),
    }
}

/// What the verbs of an operator, an agent and a payee run into; what can't come of those, as the
/// contract names it.
fn message(error: &Errors) -> String {
    match error {
        Errors::UnknownMandate(error) => format!("these terms were never opened here, as {}", MandateId(error.mandate)),
        Errors::NotEnded(error) => {
            let id = MandateId(error.mandate);
            format!("{id} has not ended: it does at second {} since 1970, or when it is revoked", error.expiry)
        }
        Errors::NothingToSweep(error) => {
            format!("nothing of {} is left that could go back now", MandateId(error.mandate))
        }
        Errors::NotOperator(error) => format!("only its operator {} can do this, not {}", error.operator, error.caller),
        Errors::NotOperatorOrAgent(error) => {
            format!(
                "only its operator {} and its agent {} can do this, not {}",
                error.operator, error.agent, error.caller
            )
        }
        Errors::NotSignedByOperator(error) => {
            format!("the operator {} has not signed this, for this chain and escrow", error.operator)
        }
        Errors::DeadlinePassed(error) => {
            format!("what the operator signed was good until second {} since 1970: sign anew", error.deadline)
        }
        Errors::BadRecipient(error) => {
            format!("{} can't receive it: it is zero, the escrow or the token", error.recipient)
        }
        Errors::ExpiryNotInFuture(error) => {
            format!("the mandate would be over already, at second {} since 1970", error.expiry)
        }
        Errors::CaptureEndTooLate(error) => {
            let (end, latest) = (error.captureEnd, error.latest);
            format!("captures would end at second {end} since 1970, which is after the latest, {latest}")
        }
        Errors::TokenWithoutSixDecimals(error) => {
            format!(
                "the token {} has {} decimals; an escrow takes USDC alone, which has 6",
                error.token, error.decimals
            )
        }
        Errors::PullAboveMaximum(error) => {
            let usdc =
                |units| Amount::from_units(units).map_or_else(|_| format!("{units} units"), |it| format!("{it} USDC"));
            format!(
                "{} would be pulled from the operator, more than the {} that were agreed to: something was spent meanwhile; \
                 nothing has changed, so look at what is left and try again",
                usdc(error.pull),
                usdc(error.maxPull)
            )
        }
        Errors::OperatorDiffers(error) => {
            format!("only a mandate of the same operator {} can replace it, not one of {}", error.from, error.to)
        }
        Errors::AmountIsZero(_) => "an amount of zero".into(),
        Errors::TransferFailed(error) => format!("the token does not pay {} out", error.to),
        Errors::TransferDeltaMismatch(_) => "the token took or gave another amount than it was asked for".into(),
        Errors::SafeERC20FailedOperation(error) => format!("the token {} refuses", error.token),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, B256, aliases::U40};
    use alloy_sol_types::{Revert, SolError};
    use stipend_bindings::abi::MandateEscrow;

    use super::*;

    #[test]
    fn reverts_read_as_words_and_refusals_as_codes() {
        let mandate = B256::repeat_byte(1);
        let id = MandateId(mandate);
        let early = MandateEscrow::NotEnded { mandate, expiry: U40::from(7_u64) }.abi_encode();
        let early = read(&early).to_string();
        assert!(early.contains(&id.to_string()) && early.contains("second 7") && !early.contains('{'), "{early}");
        let forged = MandateEscrow::NotSignedByOperator { operator: Address::repeat_byte(2) }.abi_encode();
        assert!(read(&forged).to_string().contains(&format!("{} has not signed", Address::repeat_byte(2))));
        let dear = read(&MandateEscrow::PullAboveMaximum { pull: 6_000_000, maxPull: 0 }.abi_encode()).to_string();
        assert!(dear.contains("6.00 USDC would be pulled") && dear.ends_with("try again"), "{dear}");
        let refused = MandateEscrow::Refused { reason: 1 }.abi_encode();
        assert!(matches!(read(&refused), ChainError::Refused(Code::UnknownMandate)));
        let ended = MandateEscrow::AlreadyEnded { mandate }.abi_encode();
        assert!(matches!(read(&ended), ChainError::AlreadyEnded(known) if known == id));
        let token = Revert::from("ERC20: transfer amount exceeds balance").abi_encode();
        assert!(read(&token).to_string().ends_with("exceeds balance"));
        for nonsense in [&[][..], &[1, 2, 3], &[0xff; 36]] {
            assert!(matches!(read(nonsense), ChainError::Reverted(_)), "{nonsense:?}");
        }
    }
}
