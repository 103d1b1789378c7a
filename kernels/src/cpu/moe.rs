//! Which experts of a mixture a token goes to.

/// What the weights of a token's experts add up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteWeights {
    /// To less than one: they are probabilities among all experts.
    OfAll,
    /// To one.
    OfChosen,
}

/// An expert of a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Route {
    /// Its number.
    pub expert: u32,
    /// What its result is multiplied with.
    pub weight: f32,
}

/// Appends a token's `top_k` experts, the likeliest first, of equals the first. Of the logits, one
/// for each expert, those that are no numbers count as least.
pub fn route(logits: &[f32], top_k: usize, sum: RouteWeights, out: &mut Vec<Route>) {
    let value = |logit: f32| if logit.is_nan() { f32::NEG_INFINITY } else { logit };
    let greatest = logits.iter().copied().map(value).fold(f32::NEG_INFINITY, f32::max);
    // Without a number among them, all are as good.
    let weight = |logit: f32| {
        if greatest == f32::NEG_INFINITY { 1.0 } else { (value(logit) - greatest).exp() }
    };
    let all: f32 = logits.iter().copied().map(weight).sum();
    let first = out.len();
    for _ in 0..top_k.min(logits.len()) {
        let is_free = |expert: u32| out[first..].iter().all(|route: &Route| route.expert != expert);
        let mut best: Option<Route> = None;
        for (expert, &logit) in (0..).zip(logits) {
            let weight = weight(logit);
            if best.is_none_or(|best| weight > best.weight) && is_free(expert) {
                best = Some(Route { expert, weight });
            }
        }
        out.extend(best);
    }
    let chosen: f32 = out[first..].iter().map(|route| route.weight).sum();
    let total = match sum {
        RouteWeights::OfAll => all,
        RouteWeights::OfChosen => chosen,
    };
    for route in &mut out[first..] {
        route.weight /= total;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(logits: &[f32], top_k: usize, sum: RouteWeights) -> Vec<Route> {
        let mut out = Vec::new();
        route(logits, top_k, sum, &mut out);
        out
    }

    #[test]
    fn the_likeliest_are_chosen_and_weighed() {
        let logits = [0.0, 2.0_f32.ln(), f32::NAN, 4.0_f32.ln(), 0.0];

        let all = routes(&logits, 2, RouteWeights::OfAll);
        let chosen = routes(&logits, 2, RouteWeights::OfChosen);

        assert_eq!(all.iter().map(|route| route.expert).collect::<Vec<_>>(), [3, 1]);
        for (route, expected) in all.iter().zip([0.5, 0.25]) {
            assert!((route.weight - expected).abs() < 1e-6);
        }
        for (route, expected) in chosen.iter().zip([2.0 / 3.0, 1.0 / 3.0]) {
            assert!((route.weight - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn of_equals_the_first_are_chosen() {
        let routes = routes(&[f32::NAN, 1.0, f32::NAN, 1.0], 3, RouteWeights::OfChosen);

        assert_eq!(routes.iter().map(|route| route.expert).collect::<Vec<_>>(), [1, 3, 0]);
        assert_eq!(routes[2].weight, 0.0);
    }
}
