//! The routes: from a path to what it names, and which methods it takes.

use http::Method;

/// What a path names. Fleet names are as they came; no fleet may have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route<'a> {
    SeedHosts,
    SeedUpdate,
    Fleets,
    Fleet(&'a str),
    Roster(&'a str),
    Refresh(&'a str),
    Agents,
    Events,
    EventsSns,
    Watch,
    PrometheusSd,
    Metrics,
    Healthz,
    Readyz,
    OpenApi,
    Page,
    Script,
    Lives,
    Style,
    Icon,
}

/// What a caller must be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    /// Anyone may.
    Anyone,
    /// The seed's routes: anyone if the operator said so.
    Seed(Scope),
    /// A token.
    Token(Scope),
}

/// What a token is for. `Write` includes `Read`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    Read,
    Write,
}

impl<'a> Route<'a> {
    /// Every label that metrics use, so that a route costs no allocation to count.
    pub(super) const LABELS: [&'static str; 21] = [
        "/logstash-ip",
        "/update-ip-list",
        "/v1/fleets",
        "/v1/fleets/{fleet}",
        "/v1/fleets/{fleet}/roster",
        "/v1/fleets/{fleet}/refresh",
        "/v1/watch",
        "/v1/agents",
        "/prometheus/sd",
        "/metrics",
        "/healthz",
        "/readyz",
        "/openapi.json",
        "/",
        "/app.js",
        "/app.css",
        "/favicon.svg",
        "/v1/events",
        "/v1/events/sns",
        "/lives.js",
        "other",
    ];
    /// The label of a path that names nothing.
    pub(super) const OTHER: usize = Self::LABELS.len() - 1;

    pub(super) fn parse(path: &'a str) -> Option<Self> {
        if let Some(rest) = path.strip_prefix("/v1/fleets/") {
            return match rest.split_once('/') {
                None if rest.is_empty() => None,
                None => Some(Self::Fleet(rest)),
                Some((fleet, "roster")) => Some(Self::Roster(fleet)),
                Some((fleet, "refresh")) => Some(Self::Refresh(fleet)),
                Some(_) => None,
            };
        }
        Some(match path {
            "/logstash-ip" => Self::SeedHosts,
            "/update-ip-list" => Self::SeedUpdate,
            "/v1/fleets" => Self::Fleets,
            "/v1/events" => Self::Events,
            "/v1/events/sns" => Self::EventsSns,
            "/v1/watch" => Self::Watch,
            "/v1/agents" => Self::Agents,
            "/prometheus/sd" => Self::PrometheusSd,
            "/metrics" => Self::Metrics,
            "/healthz" => Self::Healthz,
            "/readyz" => Self::Readyz,
            "/openapi.json" => Self::OpenApi,
            "/" => Self::Page,
            "/app.js" => Self::Script,
            "/lives.js" => Self::Lives,
            "/app.css" => Self::Style,
            "/favicon.svg" => Self::Icon,
            _ => return None,
        })
    }

    /// The index of this route in [`Route::LABELS`].
    pub(super) const fn label(self) -> usize {
        match self {
            Self::SeedHosts => 0,
            Self::SeedUpdate => 1,
            Self::Fleets => 2,
            Self::Fleet(_) => 3,
            Self::Roster(_) => 4,
            Self::Refresh(_) => 5,
            Self::Watch => 6,
            Self::Agents => 7,
            Self::PrometheusSd => 8,
            Self::Metrics => 9,
            Self::Healthz => 10,
            Self::Readyz => 11,
            Self::OpenApi => 12,
            Self::Page => 13,
            Self::Script => 14,
            Self::Style => 15,
            Self::Icon => 16,
            Self::Events => 17,
            Self::EventsSns => 18,
            Self::Lives => 19,
        }
    }

    /// The methods it takes, as the `Allow` header says them.
    pub(super) const fn allow(self) -> &'static str {
        match self {
            Self::Refresh(_) | Self::Events | Self::EventsSns => "POST",
            _ => "GET, HEAD",
        }
    }

    pub(super) fn takes(self, method: &Method) -> bool {
        match self {
            Self::Refresh(_) | Self::Events | Self::EventsSns => method == Method::POST,
            _ => method == Method::GET || method == Method::HEAD,
        }
    }

    pub(super) const fn right(self) -> Right {
        match self {
            // SNS has no token: its signature is checked instead.
            Self::Healthz | Self::Readyz | Self::Icon | Self::EventsSns => Right::Anyone,
            Self::SeedHosts => Right::Seed(Scope::Read),
            Self::SeedUpdate => Right::Seed(Scope::Write),
            Self::Refresh(_) | Self::Events => Right::Token(Scope::Write),
            _ => Right::Token(Scope::Read),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_parses_back_to_its_route() {
        for (index, label) in Route::LABELS.iter().enumerate().take(Route::OTHER) {
            let path = label.replace("{fleet}", "f");
            assert_eq!(Route::parse(&path).map(Route::label), Some(index), "{path}");
        }
    }

    #[test]
    fn near_misses_name_nothing() {
        for path in [
            "",
            "/v1",
            "/v1/fleets/",
            "/v1/fleets/f/",
            "/v1/fleets/f/roster/",
            "/logstash-ip/",
            "//",
            "/V1/fleets",
        ] {
            assert_eq!(Route::parse(path), None, "{path}");
        }
    }
}
