"use strict";

SwaggerUIBundle({
  url: "openapi.json", // beside this page, under any prefix
  dom_id: "#routes",
  deepLinking: true,
  validatorUrl: null, // the validator is another server
});
