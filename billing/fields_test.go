package billing_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/sub2api/caddy-sub2api/billing"
)

// TestFieldsAreThoseOfARecord: each is there once, under its name in JSON.
func TestFieldsAreThoseOfARecord(t *testing.T) {
	var r billing.Record
	names := map[any]string{}
	for _, field := range billing.Fields {
		if at := field.Of(&r); names[at] == "" {
			names[at] = field.Name
		} else {
			t.Errorf("%s is %s too", field.Name, names[at])
		}
	}
	value := reflect.ValueOf(&r).Elem()
	for i := range value.NumField() {
		of := value.Type().Field(i)
		name := names[value.Field(i).Addr().Interface()]
		want, _, _ := strings.Cut(of.Tag.Get("json"), ",")
		switch {
		case want == "settled":
		case want == "-":
			want = "user_number"
			fallthrough
		default:
			if name != want {
				t.Errorf("the field %s is %q, want %q", of.Name, name, want)
			}
		}
	}
}
