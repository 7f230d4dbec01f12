package caddymodule

import (
	"encoding/json"

	"github.com/sub2api/caddy-sub2api/scheduler"
)

// usageAnswer is the answer of GET /v1/usage: what the key's owner has left.
type usageAnswer struct {
	IsValid   bool        `json:"isValid"`
	PlanName  string      `json:"planName"`
	Remaining json.Number `json:"remaining"` // USD; -1 = no limit
	Unit      string      `json:"unit"`
}

// usage answers GET /v1/usage.
func (x *exchange) usage() {
	answer := usageAnswer{IsValid: true, PlanName: "unlimited", Remaining: "-1", Unit: "USD"}
	if x.simple {
		x.answerJSON(answer)
		return
	}
	ledger, err := x.gateway.ledger(x.ctx)
	if err != nil {
		x.storeFailed("opening the store", err)
		return
	}
	if x.storage.outage() == outageRefuses {
		// The ledger would tell what it knew last; the state knows whether that is
		// long ago.
		if _, err := x.runtime.state.Load(x.ctx, scheduler.UserPlace(x.key.user.name)); err != nil {
			x.storeFailed("reaching the store", err)
			return
		}
	}
	balance, err := ledger.Balance(x.ctx, x.key.user.name)
	if err != nil {
		x.storeFailed("reading a balance", err)
		return
	}
	if !balance.Unlimited {
		answer.PlanName, answer.Remaining = "balance", json.Number(balance.Amount.String())
	}
	x.answerJSON(answer)
}
