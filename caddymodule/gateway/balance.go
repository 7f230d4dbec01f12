package gateway

import (
	"encoding/json"
	"math"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/caddymodule/store"
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
func (x *exchange) usage() error {
	answer := usageAnswer{IsValid: true, PlanName: "unlimited", Remaining: "-1", Unit: "USD"}
	if x.config.Simple {
		return x.answerJSON(answer)
	}
	ledger, err := x.gateway.Ledger(x.ctx)
	if err != nil {
		return storeError("opening the store", err)
	}
	if x.config.Storage.Outage() == store.OutageRefuses {
		// The ledger would tell what it knew last; the state knows whether that is
		// long ago.
		if _, err := x.runtime.State.Load(x.ctx, scheduler.UserPlace(x.key.User.Name)); err != nil {
			return storeError("reaching the store", err)
		}
	}
	if len(x.key.Groups) > 0 && x.key.Groups[0].Subscription {
		left, err := x.subscriptionLeft(ledger, x.key.Groups[0])
		if err != nil {
			return storeError("reading a subscription", err)
		}
		answer.PlanName, answer.Remaining = x.key.Groups[0].Name, json.Number(left.String())
		return x.answerJSON(answer)
	}
	if !x.key.User.Unlimited {
		balance, err := ledger.Balance(x.ctx, x.key.User.Name)
		if err != nil {
			return storeError("reading a balance", err)
		}
		answer.PlanName, answer.Remaining = "balance", json.Number(balance.Amount.String())
	}
	return x.answerJSON(answer)
}

// subscriptionLeft is what the windows of the user's subscription of a group have
// left: the least of them, and nothing without a subscription.
func (x *exchange) subscriptionLeft(ledger billing.Ledger, g *Group) (billing.USD, error) {
	now := time.Now()
	subscription, err := ledger.Subscription(x.ctx, x.key.User.Name, g.Name)
	if err != nil {
		return 0, err
	}
	until, subscribed := x.key.User.Subscriptions[g.Name]
	if !subscribed {
		until, subscribed = subscription.Until, subscription.Subscribed
	}
	if !subscribed || !until.IsZero() && !now.Before(until) {
		return 0, nil
	}
	least := billing.USD(math.MaxInt64)
	for span, window := range subscription.Windows.At(now) {
		if limit := g.Limits[span]; limit > 0 {
			least = min(least, limit.Plus(-window.Used))
		}
	}
	return least, nil
}
