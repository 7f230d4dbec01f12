package billing

import (
	"cmp"

	"github.com/sub2api/caddy-sub2api/internal/modelname"
)

// limits are of a model, in tokens; 0 = not known.
type limits struct{ input, output int64 }

// Facts returns what is known of a model: what is built in, under the limits that a
// price file has for it, in any of the name's spellings. With "[1m]" the window is
// that of a long context, unless the file names the model so. known is false where
// nothing is.
func (p *Prices) Facts(model string) (facts modelname.Facts, known bool) {
	facts, known = modelname.Lookup(model)
	for _, name := range modelname.Spellings(model) {
		l, found := p.limits[name]
		if !found {
			continue
		}
		if modelname.IsLong(model) && name != model {
			l.input = modelname.LongContext
		}
		facts.MaxInputTokens = cmp.Or(l.input, facts.MaxInputTokens)
		facts.MaxOutputTokens = cmp.Or(l.output, facts.MaxOutputTokens)
		return facts, true
	}
	return facts, known
}
