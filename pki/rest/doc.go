// Package rest serves a [pki.Manager] over HTTP, with the requests and answers
// of the product's REST interface:
//
//	POST     /api/v1/login                  {"username","password"} -> {"token"}
//	POST     /api/v1/private-key            {"name","algorithm","rsa_key_size"|"ecc_curve"}
//	POST/GET /api/v1/certificate-request    {"name","common_name",...} -> {"csr"}
//	POST     /api/v1/certificate            {"name","certificate"} -> report
//	GET      /api/v1/certificate            -> {"certificates":[...],"alarms":[...],"counters":{...}}
//	GET      /api/v1/certificate/{name}     -> status, details and PEM
//
// All but the first need "Authorization: Bearer TOKEN". A refusal is a JSON object
// with code, message and, where there is one, field; several bad fields are in
// errors. Bodies are bounded. Every call
// of a user is audited; calls of others are up to a bounded rate.
//
// Line breaks inside JSON strings, and PEM whose line breaks are gone, are taken:
// "curl -d @file" removes line breaks from what it sends.
package rest
