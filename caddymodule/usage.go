package caddymodule

import (
	"encoding/json"
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
		x.internal("opening the store", err)
		return
	}
	balance, err := ledger.Balance(x.ctx, x.key.user.name)
	if err != nil {
		x.internal("reading a balance", err)
		return
	}
	if !balance.Unlimited {
		answer.PlanName, answer.Remaining = "balance", json.Number(balance.Amount.String())
	}
	x.answerJSON(answer)
}
