# What the service and its Ray nodes may do: read drops, read and write the lake, take messages.

data "aws_iam_policy_document" "service" {
  statement {
    sid     = "ListDrops"
    effect  = "Allow"
    actions = ["s3:ListBucket"]
    # Without a condition on the prefix: under one, S3 answers 403 to a look at an object that is gone, not 404.
    resources = [aws_s3_bucket.this["drops"].arn]
  }

  statement {
    sid       = "ReadDrops"
    effect    = "Allow"
    actions   = ["s3:GetObject"]
    resources = ["${aws_s3_bucket.this["drops"].arn}/${var.prefix}*"]
  }

  statement {
    sid       = "ListLake"
    effect    = "Allow"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.this["lake"].arn]
  }

  statement {
    sid       = "WriteLake"
    effect    = "Allow"
    actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    resources = ["${aws_s3_bucket.this["lake"].arn}/*"]
  }

  statement {
    sid    = "TakeMessages"
    effect = "Allow"
    actions = [
      "sqs:ReceiveMessage",
      "sqs:DeleteMessage",
      "sqs:ChangeMessageVisibility",
      "sqs:GetQueueAttributes",
    ]
    resources = [aws_sqs_queue.events.arn]
  }

  statement {
    sid       = "BuryMessages"
    effect    = "Allow"
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.dead_letters.arn]
  }
}

resource "aws_iam_policy" "service" {
  name   = var.name
  policy = data.aws_iam_policy_document.service.json
}

data "aws_iam_policy_document" "trust" {
  count = var.oidc_provider_arn == "" ? 0 : 1

  statement {
    effect  = "Allow"
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [var.oidc_provider_arn]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.oidc_issuer}:sub"
      values   = ["system:serviceaccount:${var.service_account}"]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.oidc_issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }
  }
}

locals {
  oidc_issuer = replace(var.oidc_provider_arn, "/^.*oidc-provider\\//", "")
}

resource "aws_iam_role" "service" {
  count              = var.oidc_provider_arn == "" ? 0 : 1
  name               = var.name
  assume_role_policy = data.aws_iam_policy_document.trust[0].json
}

resource "aws_iam_role_policy_attachment" "service" {
  count      = var.oidc_provider_arn == "" ? 0 : 1
  role       = aws_iam_role.service[0].name
  policy_arn = aws_iam_policy.service.arn
}
