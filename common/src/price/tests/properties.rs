//! What holds for every row and every usage.

use proptest::prelude::*;

use super::*;

fn keys() -> impl Strategy<Value = String> {
    let prices = Prices::shipped();
    let mut keys: Vec<String> = prices.keys().map(str::to_owned).collect();
    keys.sort_unstable();
    proptest::sample::select(keys)
}

fn usage() -> impl Strategy<Value = Usage> {
    let part = 0..300_000_u64;
    (proptest::array::uniform12(part.clone()), part, 0..4_u64).prop_map(|(parts, completion, searches)| {
        let [prompt, cached, write, hour, text, audio, image, reasoning, out_text, out_audio, total, short] = parts;
        Usage {
            prompt_tokens: prompt,
            completion_tokens: completion,
            total_tokens: Some(total),
            cached_tokens: cached,
            cache_write_tokens: write,
            cache_write_1h_tokens: hour,
            cache_write_5m_tokens: short,
            prompt_text_tokens: text,
            prompt_audio_tokens: audio,
            prompt_image_tokens: image,
            reasoning_tokens: reasoning,
            completion_text_tokens: out_text,
            completion_audio_tokens: out_audio,
            web_search_requests: searches,
            ..Usage::default()
        }
    })
}

fn call() -> impl Strategy<Value = (Call, Option<&'static str>)> {
    let calls = proptest::sample::select(vec![Call::Completion, Call::Batch, Call::Embedding]);
    let tiers = proptest::sample::select(vec![None, Some("flex"), Some("priority"), Some("ultrafast"), Some("other")]);
    (calls, tiers)
}

proptest! {
    #[test]
    fn a_bill_is_the_sum_of_its_terms_and_never_negative(key in keys(), usage in usage(), (call, tier) in call()) {
        let price = Prices::shipped().at_key(&key).unwrap();
        let terms = Terms { call, requested_tier: tier, ..Terms::at(noon()) };
        let Some(bill) = price.bill(&usage, &terms) else {
            prop_assert!(!price.has_token_prices());
            return Ok(());
        };
        let sum: PicoUsd = bill.terms.iter().map(|term| term.amount).sum();
        let most = i64::try_from(bill.terms.len()).unwrap() + 1;
        prop_assert!((sum.0 - bill.total.0).abs() <= most, "{sum} {}", bill.total);
        prop_assert!(bill.total >= PicoUsd::ZERO && bill.terms.iter().all(|term| term.amount >= PicoUsd::ZERO));
        prop_assert!((bill.prompt.0 + bill.completion.0 + bill.tools.0 - bill.total.0).abs() <= 2);
    }

    #[test]
    fn more_tokens_never_cost_less(key in keys(), prompt in 1..90_000_u64, output in 0..90_000_u64, more in 0..90_000_u64) {
        // Below all thresholds but Alibaba's; ranges get dearer, and so does what is above them.
        let price = Prices::shipped().at_key(&key).unwrap();
        let (Some(less), Some(longer), Some(wordier)) = (
            price.estimate("any", prompt, output, noon()),
            price.estimate("any", prompt + more, output, noon()),
            price.estimate("any", prompt, output + more, noon()),
        ) else { return Ok(()) };
        prop_assert!(less <= longer && less <= wordier, "{key}: {less} {longer} {wordier}");
    }

    #[test]
    fn a_tier_that_a_row_does_not_name_has_the_plain_price(key in keys(), usage in usage()) {
        let price = Prices::shipped().at_key(&key).unwrap();
        for tier in ["flex", "balanced", "priority", "ultrafast"] {
            if price.rates().any(|(name, _)| name.ends_with(tier)) {
                continue;
            }
            let plain = price.bill(&usage, &Terms::at(noon()));
            let tiered = price.bill(&usage, &Terms { requested_tier: Some(tier), ..Terms::at(noon()) });
            prop_assert_eq!(plain, tiered);
        }
    }
}
